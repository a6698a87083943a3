#pragma once

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "espalier/base/file.h"
#include "espalier/base/options.h"
#include "espalier/round/backend.h"
#include "espalier/rpc/service.h"
#include "espalier/serve/cohort.h"
#include "espalier/serve/job_queue.h"
#include "espalier/serve/pace.h"
#include "espalier/serve/population.h"
#include "espalier/serve/registry.h"
#include "espalier/serve/spool.h"
#include "espalier/serve/waiting_room.h"

namespace espalier::serve {

class SentTask;

struct NetworkOptions {
  uint64_t run = 0;           // this run's number; clients of another one are refused
  uint64_t num_clients = 0;   // the population: ids 0 … num_clients − 1
  std::string client_config;  // what clients must know, as CheckIn sends it
  rpc::Version version;
  std::filesystem::path folder;  // registry and updates on their way
  size_t workers = 1;            // threads that encode, decode and add
  uint32_t max_uploads = 64;     // at a time; others are told to come back
  uint64_t max_update_bytes = uint64_t{1} << 30;
  uint64_t max_samples = uint64_t{1} << 20;  // that a client may state
  double round_deadline_s = 3600;            // who has not answered an exchange by then has failed
  double recall_deadline_s = 60;  // the same where clients are asked for what they remember
  double min_fraction = 0;        // of the clients of a round that have to answer for it to count
  // Clients come and go: a round draws among those that are there, more than it needs (cohort.h),
  // and ends when it has enough; clients that are not needed are told when to come back (pace.h).
  bool open = false;
  double over_selection = 0;  // times the clients of a round; 0: by the measured drop-out
  double select_window_s = 60;
  PaceOptions pace;
  uint64_t spool_bytes = uint64_t{4} << 30;  // of counted updates that are not in a checkpoint yet
  // When it becomes nonzero, the exchange in progress has so many seconds left; null: never.
  const volatile std::sig_atomic_t* stop = nullptr;
  double drain_s = 30;
  // What happens, as JSON objects with a key "event" (docs/network.md); called by any thread, one
  // at a time.
  std::function<void(const Json& event)> on_event = {};
  uint32_t poll_ms = 50'000;  // how long an Await is held at most
  uint32_t heartbeat_ms = 30'000;
  uint32_t lease_ms = 90'000;  // how long a silent process still counts as its client
};

// What is known of a client, for a person.
struct ClientView {
  uint64_t client = 0;
  bool enrolled = false, connected = false;
  rpc::Phase phase = rpc::Phase::kIdle;
  float progress = 0;
  std::string detail;
};

// A population of devices as the Backend of a round loop: tasks wait here until clients ask,
// and updates come when they come. What a run ends with are the bytes of a simulation with the same
// configuration and data, whoever answers first and however often a connection breaks: tasks and
// sample counts are the same, and nothing else enters.
//
// Backend's functions are called by the round's thread, Service's by gRPC's. An update is received
// into a file of `folder`, where a broken upload goes on, and kept until its round is in a
// checkpoint: a server that starts again, and a round that is repeated, count it without asking.
class NetworkBackend final : public round::Backend, public rpc::Service {
 public:
  explicit NetworkBackend(const NetworkOptions& options);
  ~NetworkBackend() override;

  // What samples look like; a client's must be alike. Before anybody calls.
  void describe(const rpc::DataSpec& data) { data_ = data; }
  // Longer updates are refused. Before anybody calls.
  void limit_updates(uint64_t bytes) { max_update_bytes_ = bytes; }
  // Waits until everybody is enrolled, or until `stop` becomes nonzero (false). Throws Error with
  // the names of who is missing after `deadline_s`. `tell(enrolled, all)` is called now and then.
  bool wait_for_clients(double deadline_s, const volatile std::sig_atomic_t* stop,
                        const std::function<void(uint64_t, uint64_t)>& tell);
  // From now on whoever asks is told that the run is over, and why; waits until everybody who has
  // joined has heard it, at most `grace_s`.
  void finish(bool completed, const std::string& reason, double grace_s);

  // From now on whoever asks is told to come back soon: the server stops, and the run is not over.
  void go_away();

  // Of an open population: the share of the asked that drop out, as measured (Cohort).
  double drop_out() const;
  // Of a fixed population all, of an open one those that are connected.
  std::vector<ClientView> clients() const;

  // ---- round::Backend
  uint64_t num_clients() const override { return options_.num_clients; }
  uint64_t num_samples(uint64_t client) const override { return registry_.num_samples(client); }
  // Of an open population: waits until enough are there, at most select_window_s, and then until at
  // least min_fraction of them are.
  std::vector<uint64_t> select(Key key, std::span<const uint64_t> eligible,
                               uint64_t count) override;
  // Of a fixed population all of them, who may come back.
  std::vector<uint64_t> present(std::span<const uint64_t> eligible) override;
  // Throws RoundFailed when fewer than `min_fraction` of the clients of a training or an
  // exploration answer, or when the server stops before those of whatever exchange have.
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override;
  void commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) override;

  // ---- rpc::Service
  rpc::CheckInReply check_in(const rpc::Caller& caller,
                             const rpc::CheckInRequest& request) override;
  uint64_t await(const rpc::Caller& caller, const rpc::AwaitRequest& request,
                 std::function<void(rpc::AwaitReply)> answer) override;
  void gone(uint64_t ticket) override;
  std::shared_ptr<const rpc::Download> fetch(const rpc::Caller& caller,
                                             const rpc::FetchRequest& request) override;
  std::unique_ptr<rpc::Upload> push(const rpc::Caller& caller, const rpc::PushOpen& open,
                                    rpc::PushReply& reply) override;
  rpc::ReportReply report(const rpc::Caller& caller, const rpc::ReportRequest& request) override;

 private:
  using Clock = std::chrono::steady_clock;
  class Incoming;
  struct Part;
  struct Exchange;
  struct Session;
  using Lock = std::unique_lock<std::mutex>;

  Session& session_of(const rpc::Caller& caller, const std::string& session);
  rpc::Ticket ticket_of(const Exchange& exchange) const;
  Spool::Id spooled(const Exchange& exchange, uint64_t client) const;
  // Encodes the client's task and tells whoever waits as this client.
  void prepare(uint64_t client);
  void notify(uint64_t client, const Lock& lock);
  void tell(uint64_t client, uint64_t ticket, const std::shared_ptr<const SentTask>& task);
  // Counts an update that has arrived whole; `intact`: it has the digest that its client has said.
  void deliver(uint64_t client, uint64_t digest, bool intact,
               const std::function<void(rpc::PushReply)>& done);
  // Counts the update that an earlier process or attempt has kept, if it answers this task.
  void deliver_kept(uint64_t client);
  // Reads, decodes and hands on; the verdict, and whether the client is settled by it.
  struct Verdict {
    rpc::PushReply reply;
    bool counted = false, settled = false;
  };
  static Verdict again();
  Verdict count(Exchange& exchange, uint64_t client, const FileReader& file);
  void settle(Exchange& exchange, uint64_t client, const Verdict& verdict, uint64_t digest);
  // Who is there: joined, not left, not sent away, and heard of lately. Ascending.
  std::vector<uint64_t> here_of(std::span<const uint64_t> eligible);
  bool is_alive(const Session& session, Clock::time_point now) const;
  bool is_there(uint64_t client, Clock::time_point now) const;
  bool deserted(const Exchange& exchange) const;
  // Seconds since this began, for what has no clock of its own.
  double now_s() const;
  // What a client of an open population hears that waits or would wait: nothing, or when to come
  // back; it counts as away then.
  std::optional<rpc::RetryWindow> send_away(uint64_t client, Session& session);
  // The round is over: those that it used and that wait are sent away.
  void release(uint32_t round);
  rpc::AwaitReply reply_to(uint64_t client) const;
  void require_enough(const Exchange& exchange, bool stopped, const Lock& lock) const;
  void say(Json event) const;
  void answer_overdue();
  void keep_time();

  const NetworkOptions options_;
  uint64_t max_update_bytes_ = options_.max_update_bytes;
  rpc::DataSpec data_;
  Registry registry_;
  Spool spool_;
  mutable std::mutex saying_;
  mutable std::mutex mutex_;
  std::condition_variable changed_, time_changed_;  // the round's thread waits; the clock's
  std::map<uint64_t, Session> sessions_;
  WaitingRoom waiting_;
  // Of an open population.
  const Clock::time_point begin_ = Clock::now();
  Population population_;
  Pace pace_;
  Cohort cohort_;
  uint32_t over_ = 0;        // the last round that is over
  std::set<uint64_t> here_;  // joined, not left, not sent away; some are heard of no more
  std::shared_ptr<Exchange> exchange_;  // the open one; null between two
  round::ExchangeId last_;              // the one that was opened last
  uint32_t attempt_ = 0;                // how often its round was begun
  uint64_t wanted_ = 0;                 // answers to the exchange that was selected last; 0: all
  std::map<uint64_t, uint32_t> committed_;
  std::map<uint64_t, std::string> last_failures_;
  std::optional<rpc::Finished> finished_;
  std::optional<rpc::RetryWindow> away_;  // when the server stops and the run is not over
  uint32_t uploads_ = 0;
  uint32_t working_ = 0;       // jobs that use the exchange's traffic
  std::exception_ptr broken_;  // our own storage or memory
  bool stopping_ = false;
  std::thread time_;
  std::unique_ptr<JobQueue> jobs_;
};

}  // namespace espalier::serve
