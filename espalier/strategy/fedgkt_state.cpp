// FedGKT's checkpoints.
#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/strategy/fedgkt.h"

namespace espalier::strategy {

namespace {

constexpr float kNoLimit = 3.4e38f;  // was checked when it came

void put(auto value, ByteSource& out) {
  Bytes bytes;
  ByteWriter(bytes).put(value);
  out.append(std::move(bytes));
}

// The values stay where they are.
template <class T>
void put_values(std::span<const T> values, ByteSource& out) {
  out.append_view({reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()});
}

template <class T>
void put_list(std::span<const T> values, ByteSource& out) {
  put(static_cast<uint64_t>(values.size()), out);
  put_values(values, out);
}

// Of a list of values of so many bytes that follow. Nothing is allocated for more than there is.
uint64_t get_size(SourceReader& in, size_t value_bytes) {
  const auto size = in.get<uint64_t>();
  if (size > in.remaining() / value_bytes)
    fail(in.where(), "truncated: a list of ", size, " values");
  return size;
}

template <class Vector>
Vector get_list(SourceReader& in) {
  using Value = typename Vector::value_type;
  Vector values(get_size(in, sizeof(Value)));
  in.array(std::span<Value>(values));
  return values;
}

void expect(SourceReader& in, bool fits, const char* what) {
  if (!fits) fail(in.where(), "the saved ", what, " belongs to another configuration");
}

}  // namespace

void FedGkt::save(ByteWriter& out) const {
  saved().for_each_piece([&](std::span<const uint8_t> piece) { out.bytes(piece); });
}

void FedGkt::load(ByteReader& in) {
  ByteSource state;
  state.append_view(in.take(in.remaining()));
  SourceReader reader(state, in.where());
  restore(reader);
  reader.finish();
}

ByteSource FedGkt::saved() const {
  ByteSource out;
  put_list(net_->weights().values(), out);
  if (options_.server_average > 0) {
    put(static_cast<uint8_t>(average_.empty() ? 0 : 1), out);
    if (!average_.empty()) put_list(average_.values(), out);
  }
  put(optimizer_.steps, out);
  for (const auto* buffer : {&optimizer_.first, &optimizer_.second, &optimizer_.largest})
    put_list(std::span(*buffer), out);
  put(plateau_.best, out);
  put(plateau_.lr_scale, out);
  put(plateau_.bad_rounds, out);
  put(static_cast<uint64_t>(answers_.size()), out);
  for (const auto& [client, answers] : answers_) {
    put(client, out);
    put_list(answers->values("ids"), out);
    put_values(answers->values("logits"), out);
  }
  // None unless asynchronous: between rounds there are only those of a round that failed.
  const bool kept = options_.mode == "asynchronous";
  put(static_cast<uint64_t>(kept ? uploads_.size() : 0), out);
  for (const auto& [client, upload] : uploads_) {
    if (!kept) break;
    put(client, out);
    put_list(std::span(upload.ids), out);
    put_list(std::span(upload.labels), out);
    put_list(std::span(upload.logits), out);
    const ByteSource features = features_->message({client, false});
    put(features.size(), out);
    out.append(features);
  }
  return out;
}

void FedGkt::restore(SourceReader& in) {
  ParameterSet weights(net_->weights().shared_layout());
  const auto get_net = [&](ParameterSet& set) {
    expect(in, get_size(in, sizeof(float)) == set.size(), "net");
    in.array(set.values());
  };
  get_net(weights);
  ParameterSet average;
  if (options_.server_average > 0 && in.get<uint8_t>() != 0) {
    average = ParameterSet(weights.shared_layout());
    get_net(average);
  }
  train::OptimizerState optimizer;
  optimizer.steps = in.get<uint64_t>();
  for (auto* buffer : {&optimizer.first, &optimizer.second, &optimizer.largest}) {
    *buffer = get_list<AlignedVector<float>>(in);
    expect(in, buffer->empty() || buffer->size() == weights.size(), "optimizer");
  }
  Plateau plateau;
  plateau.best = in.get<double>();
  plateau.lr_scale = in.get<double>();
  plateau.bad_rounds = in.get<int64_t>();
  const int64_t classes = setup_.data.num_classes;
  std::map<uint64_t, std::shared_ptr<const ParameterSet>> answers;
  const auto count = in.get<uint64_t>();
  for (uint64_t i = 0; i < count; ++i) {
    const auto client = in.get<uint64_t>();
    const auto ids = get_list<std::vector<float>>(in);
    if (ids.size() > in.remaining() / sizeof(float) / static_cast<size_t>(classes))
      fail(in.where(), "truncated: the answers of client ", client);
    auto answer = std::make_shared<ParameterSet>(fedgkt::answers_layout(ids.size(), classes));
    std::ranges::copy(ids, answer->values("ids").begin());
    in.array(answer->values("logits"));
    answers[client] = std::move(answer);
  }
  std::map<uint64_t, Upload> uploads;
  features_->clear();
  const auto num_uploads = in.get<uint64_t>();
  for (uint64_t i = 0; i < num_uploads; ++i) {
    const auto client = in.get<uint64_t>();
    Upload upload;
    upload.ids = get_list<std::vector<uint32_t>>(in);
    upload.labels = get_list<std::vector<int32_t>>(in);
    upload.logits = get_list<std::vector<float>>(in);
    const size_t n = upload.ids.size();
    expect(in,
           n > 0 && upload.labels.size() == n &&
               upload.logits.size() == n * static_cast<size_t>(classes) &&
               std::ranges::all_of(upload.labels,
                                   [&](int32_t label) { return label >= 0 && label < classes; }),
           "upload");
    features_->put({client, false},
                   features_->check(std::make_shared<const Bytes>(get_list<Bytes>(in)),
                                    fedgkt::features_layout(n, feature_shape_), kNoLimit));
    uploads[client] = std::move(upload);
  }
  net_->set_weights(weights);
  average_ = std::move(average);
  optimizer_ = std::move(optimizer);
  plateau_ = plateau;
  answers_ = std::move(answers);
  uploads_ = std::move(uploads);
}

}  // namespace espalier::strategy
