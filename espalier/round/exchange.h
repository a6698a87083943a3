#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "espalier/codec/codec.h"
#include "espalier/round/backend.h"
#include "espalier/round/devices.h"
#include "espalier/wire/message.h"
#include "espalier/wire/task.h"

// One mechanism for everything that the server asks clients: training, explorations, statistics.
// Tasks go out, updates come in; a client is awaited until it has delivered or failed, and then no
// more. What is asked and what the answers are for is an Errand's business.
namespace espalier::round {

// Why a client has failed that nothing was heard of.
inline constexpr const char* kNoAnswer = "gave no answer";

// What goes to one client.
struct Outgoing {
  wire::Task task;  // kind, round, exchange and client are the exchange's
  Key codec_key{0};
  bool own =
      false;  // no other client gets the same payloads: nothing of it is kept once it is sent
  // Of what the client gets, which its answer is made of; null: the whole model's.
  std::shared_ptr<const submodel::Submodel> submodel;
  std::shared_ptr<const Bytes>
      model_delta;  // of a delta downlink; null: the payload "model" itself
};

// What is remembered of a task until its answer comes.
struct Sent {
  std::shared_ptr<const submodel::Submodel> submodel;
  std::shared_ptr<const wire::TravellingMask> mask;
  uint64_t bytes = 0;
};

// Called by an exchange, from any thread. Errors end the client that they are about.
class Errand {
 public:
  virtual ~Errand() = default;
  virtual wire::TaskKind kind() const = 0;
  // The task of a client; the same whenever it is asked.
  virtual Outgoing prepare(uint64_t client) = 0;
  // What an answer may be made of.
  virtual wire::WireLimits limits(uint64_t client, const Sent& sent) const = 0;
  // Takes a decoded answer, whose number of samples is what the client stated. Throws Error when it
  // is no good: then nothing of it counts.
  virtual void accept(uint64_t client, const Sent& sent, wire::Update& update) = 0;

  // Answers that are added elsewhere (RoundTraffic::summing); by default there are none.
  virtual std::optional<Summing> summing() const { return std::nullopt; }
  // Takes such an answer, without values, as accept() does.
  virtual void count(uint64_t client, const wire::Update& update);
  virtual ExactAccumulator& sum(const std::string& payload);
};

// Throws Error when an answer claims what cannot be: another number of samples than the `held` ones
// that the client has stated, a scalar out of range, products or seconds below 0.
void check_claims(const wire::Update& update, double held);

class Exchange final : public RoundTraffic {
 public:
  // All of it outlives this.
  struct Setup {
    uint32_t round = 0, number = 0;                 // the exchange's number within the round
    Key key{0};                                     // of the exchange
    const codec::Codec& downlink;                   // what tasks are coded with
    const codec::Codec& uplink;                     // what updates are
    const Backend& backend;                         // says how many samples a client has stated
    const DeviceTable& devices;                     // for the simulated clock
    std::shared_ptr<const ParameterLayout> layout;  // of the whole model that tasks are about
    // Called when a client has delivered or failed: (done, total). Null or empty: nobody looks.
    const std::function<void(uint64_t, uint64_t)>* on_client = nullptr;
    // Under delta_downlink, whose codec is for differences: what travels beside them is float32.
    bool exact_tasks = false;
  };
  // `clients`: who is asked, each once. The errand outlives this.
  Exchange(const Setup& setup, std::span<const uint64_t> clients, Errand& errand);

  ExchangeId id() const override { return {setup_.round, setup_.number, errand_.kind()}; }
  // Any thread. Error for a client that is not asked, and whatever the errand throws.
  wire::EncodedMessage task(uint64_t client) override;
  // Any thread; answers of different clients are decoded and accepted side by side. An update that
  // names another task than this client's of this exchange is refused.
  Receipt delivered(uint64_t client, const wire::EncodedMessage& message) override;
  void failed(uint64_t client, const std::string& reason) override;
  // Clients that train the whole model without a mask, when the errand's answers are plain sums.
  std::optional<Summing> summing() const override { return errand_.summing(); }
  bool summable(uint64_t client) const override;
  Receipt summed(uint64_t client, const wire::Update& update, uint64_t size) override;
  ExactAccumulator& sum(const std::string& payload) override { return errand_.sum(payload); }

  // Lets the backend carry the tasks; afterwards nobody is awaited.
  void run(Backend& backend);

  // ---- afterwards; from one thread
  uint64_t num_clients() const { return states_.size(); }
  // What the messages occupied, framing included: each client's task once, each answer that
  // somebody waited for, faulty ones too.
  uint64_t bytes_down() const { return bytes_down_; }
  uint64_t bytes_up() const { return bytes_up_; }
  // In the order in which they answered.
  const std::vector<uint64_t>& answered() const { return answered_; }
  const std::map<uint64_t, std::string>& failures() const { return failures_; }
  // Deliveries and failures that nobody waited for.
  uint64_t refused() const { return refused_; }
  // Of the client that a round of real devices would have waited for longest.
  const DeviceTimes& slowest() const { return slowest_; }
  // Products and processor seconds that clients have said of themselves, in the order of clients.
  double macs() const;
  double client_seconds() const;

 private:
  // kDelivering: its answer is being decoded and added; the next one is too many already.
  enum class Wait : uint8_t { kAwaited, kDelivering, kDelivered, kFailed };
  struct State {
    Wait wait = Wait::kAwaited;
    bool asked = false;  // whether the task was fetched: no answer comes before it
    Sent sent;
    double macs = 0, seconds = 0;
  };
  // Whether this answer is waited for; then nobody else's is, and `sent` is what it answers.
  bool begin_delivery(uint64_t client, const std::optional<wire::TaskId>& answers, Sent& sent);
  // Its answer of `size` bytes was accepted, or with an Error not: what accept() throws.
  Receipt take(uint64_t client, const Sent& sent, uint64_t size,
               const std::function<wire::Update()>& accept);
  // The client is awaited no more. Lets go of the lock before it calls anybody.
  void settle(uint64_t client, Wait wait, const std::string& reason,
              std::unique_lock<std::mutex> lock);
  wire::Update decode(uint64_t client, const Sent& sent, const wire::EncodedMessage& message) const;

  Setup setup_;
  Errand& errand_;
  wire::EncodedBodies encoded_;  // bodies that several clients get
  mutable std::mutex mutex_;
  std::map<uint64_t, State> states_;
  std::vector<uint64_t> answered_;
  std::map<uint64_t, std::string> failures_;
  uint64_t refused_ = 0, bytes_down_ = 0, bytes_up_ = 0;
  DeviceTimes slowest_;
};

}  // namespace espalier::round
