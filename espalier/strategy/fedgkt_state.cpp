// FedGKT's checkpoints.
#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/strategy/fedgkt.h"

namespace espalier::strategy {

namespace {

constexpr float kNoLimit = 3.4e38f;  // was checked when it came

template <class Vector>
void put_vector(const Vector& values, ByteWriter& out) {
  out.put(static_cast<uint64_t>(values.size()));
  out.array(std::span<const typename Vector::value_type>(values));
}

// Allocates only what the rest of the bytes can fill.
template <class Vector>
Vector get_vector(ByteReader& in) {
  const auto size = in.get<uint64_t>();
  if (size > in.remaining() / sizeof(typename Vector::value_type))
    fail(in.where(), "truncated: a list of ", size, " values");
  Vector values(size);
  in.array(std::span<typename Vector::value_type>(values));
  return values;
}

void expect(ByteReader& in, bool fits, const char* what) {
  if (!fits) fail(in.where(), "the saved ", what, " belongs to another configuration");
}

}  // namespace

void FedGkt::save(ByteWriter& out) const {
  write_values(net_->weights(), out);
  if (options_.server_average > 0) {
    out.put(static_cast<uint8_t>(average_.empty() ? 0 : 1));
    if (!average_.empty()) write_values(average_, out);
  }
  out.put(optimizer_.steps);
  put_vector(optimizer_.first, out);
  put_vector(optimizer_.second, out);
  put_vector(optimizer_.largest, out);
  out.put(plateau_.best);
  out.put(plateau_.lr_scale);
  out.put(plateau_.bad_rounds);
  out.put(static_cast<uint64_t>(answers_.size()));
  for (const auto& [client, answers] : answers_) {
    out.put(client);
    const auto ids = answers->values("ids");
    put_vector(std::vector<float>(ids.begin(), ids.end()), out);
    out.array(answers->values("logits"));
  }
  // Empty unless asynchronous.
  out.put(static_cast<uint64_t>(uploads_.size()));
  for (const auto& [client, upload] : uploads_) {
    out.put(client);
    put_vector(upload.ids, out);
    put_vector(upload.labels, out);
    put_vector(upload.logits, out);
    put_vector(*features_->message({client, false}), out);
  }
}

void FedGkt::load(ByteReader& in) {
  ParameterSet weights(net_->weights().shared_layout());
  read_values(in, weights);
  ParameterSet average;
  if (options_.server_average > 0 && in.get<uint8_t>() != 0) {
    average = ParameterSet(weights.shared_layout());
    read_values(in, average);
  }
  train::OptimizerState optimizer;
  optimizer.steps = in.get<uint64_t>();
  for (auto* buffer : {&optimizer.first, &optimizer.second, &optimizer.largest}) {
    *buffer = get_vector<AlignedVector<float>>(in);
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
    const auto ids = get_vector<std::vector<float>>(in);
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
    upload.ids = get_vector<std::vector<uint32_t>>(in);
    upload.labels = get_vector<std::vector<int32_t>>(in);
    upload.logits = get_vector<std::vector<float>>(in);
    const size_t n = upload.ids.size();
    expect(in,
           n > 0 && upload.labels.size() == n &&
               upload.logits.size() == n * static_cast<size_t>(classes) &&
               std::ranges::all_of(upload.labels,
                                   [&](int32_t label) { return label >= 0 && label < classes; }),
           "upload");
    features_->put({client, false},
                   features_->check(std::make_shared<const Bytes>(get_vector<Bytes>(in)),
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
