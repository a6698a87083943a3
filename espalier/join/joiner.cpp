#include "espalier/join/joiner.h"

#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/version.h"
#include "espalier/codec/codec.h"
#include "espalier/codec/message.h"
#include "espalier/data/fingerprint.h"
#include "espalier/join/watchers.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/wire/message.h"

namespace espalier::join {

namespace {

// Thrown out of whatever is going on when somebody wants this to end.
struct Stopped {};

constexpr uint32_t kLongestWait = 86'400'000;  // ms, whatever a server says: a day
constexpr uint64_t kStateMemory = uint64_t{1} << 30;

rpc::DataSpec spec_of(const data::Dataset& train) {
  rpc::DataSpec spec;
  spec.kind = static_cast<uint32_t>(train.kind);
  spec.sample_shape = train.sample_shape;
  spec.num_classes = train.num_classes;
  spec.vocabulary = train.vocabulary;
  return spec;
}

// What models see of samples is the run's and not what follows from this client's alone.
void adopt(const rpc::DataSpec& spec, data::Dataset& dataset) {
  dataset.num_classes = spec.num_classes;
  dataset.vocabulary = spec.vocabulary;
  dataset.mean = spec.mean;
  dataset.stddev = spec.stddev;
  dataset.fill = spec.fill;
  if (!dataset.labels.empty()) dataset.validate();  // a client may have nothing to test on
}

// Stands where samples would: as many, of the run's kind, and nobody can read one.
data::Dataset unknown_samples(const rpc::DataSpec& spec, size_t count) {
  data::Dataset out;
  out.name = "a program of one's own";
  out.kind = data::Kind::kFloat;
  out.sample_shape = spec.sample_shape;
  out.num_classes = spec.num_classes;
  out.labels.resize(count);
  out.fetch = [](uint32_t, std::span<float>) {
    fail("join", "the strategy looks at samples, and only this client's own program has them");
  };
  return out;
}

// Bytes that move, whatever becomes of them.
struct Counted {
  explicit Counted(Eligibility& day) : eligibility(day) {}
  ~Counted() {
    try {
      if (bytes > 0) eligibility.count(bytes);
    } catch (const Error&) {
      // The page of the day cannot be written; the next one tries again.
    }
  }
  Eligibility& eligibility;
  mutable uint64_t bytes = 0;
};

}  // namespace

struct Joiner::Federation {
  rpc::CheckInReply reply;
  models::ModelOptions model;
  train::HardwareOptions hardware;
  std::unique_ptr<codec::Codec> downlink, uplink;
  std::optional<client::ClientEnvironment> environment;
};

Joiner::Joiner(JoinOptions options, data::Dataset train, data::Dataset test)
    : options_(std::move(options)),
      folder_(options_.folder),
      train_(std::move(train)),
      test_(std::move(test)),
      samples_(options_.program ? options_.num_samples : train_.size()),
      test_samples_(options_.program ? options_.num_test_samples : test_.size()),
      states_(kStateMemory),
      eligibility_([&] {
        EligibilityOptions rules = options_.eligibility;
        rules.folder = options_.folder;
        return rules;
      }()),
      connection_(options_.connection) {
  std::iota(samples_.begin(), samples_.end(), 0U);
  std::iota(test_samples_.begin(), test_samples_.end(), 0U);
  states_.set_folder(folder_.states_path());
  states_.adopt();
}

Joiner::~Joiner() = default;

void Joiner::pause(uint32_t milliseconds) const {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  // Looks up often enough for a person who wants it to stop, and seldom for a device that sleeps.
  const std::chrono::milliseconds look(milliseconds > 10'000 ? 200 : 20);
  while (std::chrono::steady_clock::now() < until) {
    if (is_stopped(stop_)) throw Stopped();
    std::this_thread::sleep_for(look);
  }
}

void Joiner::rest(const rpc::RetryWindow& window) {
  constexpr uint32_t kWorthHangingUp = 5'000;
  const uint32_t wait = std::min(drawn(window), kLongestWait);
  if (wait >= kWorthHangingUp) {
    connection_.hang_up();
    options_.say(concat("not needed now; asks again in ",
                        wait < 120'000 ? concat((wait + 999) / 1000, " s")
                                       : concat((wait + 59'999) / 60'000, " min")));
  }
  pause(wait);
}

// Clients must not come in step; nothing that a run ends with depends on this.
uint32_t Joiner::drawn(const rpc::RetryWindow& window) const {
  uint32_t random = 0;
  static_cast<void>(::getrandom(&random, sizeof(random), 0));
  const uint32_t width = window.max_ms - window.min_ms;
  return window.min_ms + (width == 0 ? 0 : random % width);
}

Joiner::End Joiner::run(const volatile std::sig_atomic_t* stop) {
  models::configure_thread();
  stop_ = stop;
  const HangUp hang_up(connection_, stop);
  try {
    while (true) {
      try {
        check_in();
        // What the server of many asks for, so that they do not all come at once after a restart.
        longest_ms_ = std::clamp<uint32_t>(federation_->reply.retry.max_ms, 1000, kLongestWait);
        return serve_tasks(stop);
      } catch (const rpc::Unreachable& error) {
        if (is_stopped(stop)) throw Stopped();
        connection_.hang_up();  // gRPC's own pauses between tries grow beyond ours
        const uint32_t wait = drawn({0, longest_ms_});
        options_.say(concat(error.what(), "; trying again in ", (wait + 999) / 1000, " s"));
        pause(wait);
        longest_ms_ = std::max(longest_ms_, std::min(2 * longest_ms_, options_.retry_max_ms));
      } catch (const rpc::Refusal& refusal) {
        if (refusal.why() != rpc::Refused::kLater && refusal.why() != rpc::Refused::kTooMuch) throw;
        pause(drawn({500, 2000}));
      }
    }
  } catch (const Stopped&) {
    // Said so that nobody waits for the lease.
    if (federation_ != nullptr)
      connection_.leave({{federation_->reply.run}, folder_.session(), rpc::Phase::kLeaving, 0, ""});
    return End::kStopped;
  }
}

void Joiner::check_in() {
  rpc::CheckInRequest request;
  request.version = {rpc::kProtocol, wire::kMessageVersion, codec::kFormatVersion,
                     std::string(version())};
  request.device.profile = options_.device;
  request.device.threads = 1;
  request.device.isa = options_.instructions;
  request.own_program = options_.program.has_value();
  if (!request.own_program) {
    request.data = spec_of(train_);
    request.data_fingerprint = data::fingerprint(train_);
  }
  request.num_samples = samples_.size();
  request.num_test_samples = test_samples_.size();
  request.run = folder_.run();
  request.session = folder_.session();
  request.previous_session = folder_.previous_session();
  auto federation = std::make_unique<Federation>();
  const bool first = federation_ == nullptr;
  try {
    federation->reply = connection_.check_in(request);
  } catch (const rpc::Refusal&) {
    if (first) folder_.session_refused();
    throw;
  }
  folder_.session_taken();
  const rpc::CheckInReply& reply = federation->reply;
  if (!first) {
    if (reply.run != federation_->reply.run)
      throw rpc::Refusal(rpc::Refused::kMismatch, "[join] the server has begun another run");
    federation_->reply = reply;
    return;
  }
  folder_.belong_to(reply.run);
  const Json config = Json::parse(reply.config, nullptr, false);
  if (!config.is_object()) fail("join", "the server's configuration cannot be read");
  const ConfigSection root{&config, ""};
  read_options(root.section("model"), {}, federation->model);
  read_options(root.section("hardware"), {}, federation->hardware);
  federation->downlink = codec::make_codec(config.value("downlink", Json::array()), "downlink");
  federation->uplink = codec::make_codec(config.value("uplink", Json::array()), "uplink");
  find_module(*federation, config.value("module_sha256", std::string()));
  if (options_.program) {
    train_ = unknown_samples(reply.data, samples_.size());
    test_ = unknown_samples(reply.data, test_samples_.size());
  } else {
    adopt(reply.data, train_);
    adopt(reply.data, test_);
  }
  federation_ = std::move(federation);
  const auto layout = trainer({}).layout();
  std::vector<std::string> stages;
  for (const Json& stage : config.value("stages", Json::array()))
    if (stage.is_string()) stages.push_back(stage.get<std::string>());
  federation_->environment.emplace(
      client::ClientEnvironment{.algorithms = strategy::client_algorithms(),
                                .downlink = *federation_->downlink,
                                .uplink = *federation_->uplink,
                                .limits = {layout, client::max_task_values(*layout)},
                                .states = &states_,
                                .stages = client::find_update_stages(stages)});
  options_.on_joined(reply.data);
  options_.say(concat("joined as client ", reply.client, " with ", samples_.size(),
                      " samples; model ", federation_->model.name));
}

// A module is code: it is this client's own file or nothing.
void Joiner::find_module(Federation& federation, const std::string& sha256) const {
  if (sha256.empty()) return;
  if (options_.module.empty())
    fail("join",
         "the run trains a TorchScript module, which does not travel; get its file from who "
         "runs the server and say --module FILE (SHA-256 ",
         sha256, ")");
  if (sha256_hex(read_file(options_.module)) != sha256)
    fail("join", options_.module.string(), " is not the module of this run, whose SHA-256 is ",
         sha256);
  federation.model.file = options_.module.string();
}

// Where a program of one's own has the samples, the server's word alone says what they are.
train::DataSpec Joiner::model_data() const {
  if (!options_.program) return train::spec_of(train_);
  const rpc::DataSpec& spec = federation_->reply.data;
  if (spec.kind > static_cast<uint32_t>(data::Kind::kTokens))
    fail("join", "the server trains on samples of a kind that this version does not know");
  constexpr int64_t kMostValues = int64_t{1} << 31;
  int64_t values = 1;
  for (const int64_t extent : spec.sample_shape) {
    if (extent < 1 || extent > kMostValues / values)
      fail("join", "the server trains on samples of an impossible shape");
    values *= extent;
  }
  return {static_cast<data::Kind>(spec.kind), spec.sample_shape, spec.num_classes, spec.vocabulary};
}

train::Trainer& Joiner::trainer(std::span<const int64_t> units) {
  constexpr size_t kMostKept = 4;
  const std::vector<int64_t> key(units.begin(), units.end());
  auto found = trainers_.find(key);
  if (found == trainers_.end()) {
    if (trainers_.size() >= kMostKept) trainers_.clear();
    auto made =
        models::make_trainer(federation_->model, model_data(), federation_->hardware, units);
    if (options_.program) made = train::make_foreign_trainer(std::move(made), *options_.program);
    found = trainers_.emplace(key, std::move(made)).first;
  }
  return *found->second;
}

Joiner::End Joiner::serve_tasks(const volatile std::sig_atomic_t* stop) {
  constexpr uint32_t kWait = 50'000;
  while (true) {
    if (is_stopped(stop)) throw Stopped();
    wait_until_eligible(0);
    const rpc::AwaitReply reply =
        connection_.await({federation_->reply.run, folder_.session(), kWait});
    if (reply.committed_version > 0)
      states_.commit(federation_->reply.client, reply.committed_version);
    if (const auto* finished = std::get_if<rpc::Finished>(&reply.next)) {
      options_.say(finished->completed ? "the run is complete"
                                       : "the run ended: " + finished->reason);
      return finished->completed ? End::kCompleted : End::kEndedEarly;
    }
    if (const auto* task = std::get_if<rpc::TaskNotice>(&reply.next)) {
      do_task(*task);
    } else {
      rest(std::get<rpc::RetryWindow>(reply.next));
    }
  }
}

// Absence, not failure: the server hears nothing, and hands no task to who does not ask.
void Joiner::wait_until_eligible(uint64_t bytes) {
  constexpr uint32_t kLookAgain = 10'000;
  bool said = false;
  while (true) {
    const std::string why = eligibility_.refusal(bytes);
    if (why.empty()) return;
    if (!said) options_.say("waiting: " + why);
    said = true;
    pause(kLookAgain);
  }
}

void Joiner::do_task(const rpc::TaskNotice& task) {
  if (const auto kept = folder_.update_for(task.digest)) {
    push(task, *kept);
    return;
  }
  auto message = fetch(task);
  if (!message) return;
  bool wanted = true;
  try {
    wanted = work(task, std::move(*message));
  } catch (const StorageError&) {
    throw;  // ours: the task may be tried again when there is room
  } catch (const Error& error) {
    fail_task(task, error.what());
    return;
  }
  // Kept all the same: another attempt of the round may ask for it.
  if (!wanted) {
    options_.say(concat("round ", task.ticket.round, ": the server has gone on without it"));
    return;
  }
  const auto update = folder_.update_for(task.digest);
  if (!update) throw StorageError("[join] the update cannot be read back; is the disk sound?");
  push(task, *update);
}

// nullopt when nobody wants the task any more.
std::optional<wire::EncodedMessage> Joiner::fetch(const rpc::TaskNotice& task) {
  constexpr int kTries = 3;
  for (int tries = 0; tries < kTries; ++tries) {
    const uint64_t here = folder_.begin_task(task.digest, task.bytes);
    if (here < task.bytes) {
      const uint64_t cap = options_.eligibility.max_bytes_per_day;
      if (cap > 0 && task.bytes > cap) {
        fail_task(task, concat("the task has ", task.bytes / 1'000'000,
                               " MB, more than this client moves in a day (--max-mb-per-day)"));
        return std::nullopt;
      }
      wait_until_eligible(task.bytes - here);
      const Counted counted(eligibility_);
      try {
        connection_.fetch({task.ticket, folder_.session(), task.digest, here},
                          [&](uint64_t offset, const rpc::Pieces& data) {
                            for (const auto piece : data) counted.bytes += piece.size();
                            folder_.add_to_task(offset, data);
                          });
      } catch (const rpc::Refusal& refusal) {
        // Its exchange has closed, or is not open again yet.
        if (refusal.why() != rpc::Refused::kMismatch) throw;
        pause(drawn({200, 1000}));
        return std::nullopt;
      }
    }
    if (auto message = folder_.task()) return message;
    options_.say(concat("round ", task.ticket.round, ": the task is damaged here; fetched again"));
  }
  throw StorageError(concat("[join] the task has arrived damaged ", kTries,
                            " times; is the disk of ", options_.folder.string(), " sound?"));
}

void Joiner::fail_task(const rpc::TaskNotice& task, const std::string& why) {
  connection_.report({task.ticket, folder_.session(), rpc::Phase::kFailed, 0, why});
  options_.say(concat("round ", task.ticket.round, " failed: ", why));
  options_.on_failed(why);
}

// Whether the server still wants what came of it.
bool Joiner::work(const rpc::TaskNotice& task, wire::EncodedMessage message) {
  options_.on_task(task.ticket.round);
  const Heartbeat heartbeat(connection_,
                            {task.ticket, folder_.session(), rpc::Phase::kTraining, 0, ""},
                            std::max<uint32_t>(federation_->reply.heartbeat_ms, 100));
  // The message is gone before the training begins.
  client::Session session(std::exchange(message, {}), *federation_->environment);
  const train::StepOptions& step = session.task().train;
  session.run(
      [&](std::span<const int64_t> units) -> train::Trainer& {
        train::Trainer& found = trainer(units);
        const uint64_t needed = found.training_bytes(step.batch_size, step);
        if (options_.memory_bytes > 0 && needed > options_.memory_bytes)
          fail("join", "training would take ", needed / 1'000'000, " MB, and this client has ",
               options_.memory_bytes / 1'000'000, " (--memory-mb)");
        return found;
      },
      {train_, samples_, &test_, test_samples_});
  const wire::EncodedMessage update = session.encode();
  session.remember();
  // What the client remembers is safe before the server hears of it.
  states_.make_durable();
  folder_.keep_update(task.digest, update);
  return heartbeat.wanted();
}

void Joiner::push(const rpc::TaskNotice& task, const StoredStream& update) {
  if (task.max_update_bytes > 0 && update.size() > task.max_update_bytes) {
    fail_task(task, concat("an update of ", update.size(), " bytes; the server takes at most ",
                           task.max_update_bytes, " (network.max_update_mb)"));
    return;
  }
  const rpc::PushOpen open{task.ticket, folder_.session(), task.digest, update.size(),
                           update.second()};
  const auto send = [&] {
    const Counted counted(eligibility_);
    return connection_.push(open, [&](uint64_t offset, std::span<uint8_t> out) {
      counted.bytes += out.size();
      update.read(offset, out);
    });
  };
  while (true) {
    rpc::PushReply reply;
    try {
      reply = send();
    } catch (const rpc::Refusal& refusal) {
      if (refusal.why() != rpc::Refused::kInvalid) throw;
      fail_task(task, refusal.what());
      return;
    }
    switch (reply.verdict) {
      case rpc::Verdict::kAccepted:
      case rpc::Verdict::kDuplicate:
        ++rounds_done_;
        options_.say(concat("round ", task.ticket.round, ": update of ", update.size(), " bytes"));
        return;
      case rpc::Verdict::kBusy:
        pause(drawn(reply.retry));
        continue;
      case rpc::Verdict::kRefused:
        options_.say(
            concat("round ", task.ticket.round, ": the server refused the update: ", reply.detail));
        return;
      case rpc::Verdict::kStale:
      case rpc::Verdict::kMore:
        return;  // it came too late; the next task will tell
    }
  }
}

}  // namespace espalier::join
