// What the network costs beside what it carries: a server of `espalier serve` with rounds that
// neither decode nor train, and clients in a process of their own, over mutual TLS on loopback. In
// the same run: the same bytes over plain TLS sockets, and over gRPC with nothing on top of it.
//
//   network_bench [--clients 6] [--down-kb 500000] [--up-kb 500000] [--rounds 1] [--json] transfers
//   network_bench --idle 1000 [--per-s 100] [--json] clients that come, so many a second, and wait
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <thread>

#include "bench/bare_grpc.h"
#include "bench/harness.h"
#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/base/heap.h"
#include "espalier/rpc/certificates.h"
#include "espalier/rpc/connection.h"
#include "espalier/rpc/server.h"
#include "espalier/serve/network_backend.h"

namespace espalier::bench {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUsage =
    "network_bench [--clients 6] [--down-kb 500000] [--up-kb 500000] [--rounds 1] [--idle CLIENTS "
    "[--per-s 100]] [--json]";

// One body for everybody, as a model is; updates are looked at from outside alone.
class Traffic final : public round::RoundTraffic {
 public:
  Traffic(uint32_t round, size_t bytes) : round_(round), body_(std::make_shared<Bytes>(bytes)) {
    for (size_t i = 0; i < bytes; ++i) (*body_)[i] = static_cast<uint8_t>(i * 31 + (i >> 11));
  }
  round::ExchangeId id() const override { return {round_, 0, wire::TaskKind::kTrain}; }
  void next_round() { ++round_; }
  wire::EncodedMessage task(uint64_t client) override {
    wire::EncodedMessage message;
    message.head = {static_cast<uint8_t>(client), static_cast<uint8_t>(client >> 8),
                    static_cast<uint8_t>(round_)};
    message.bodies.push_back(body_);
    return message;
  }
  round::Receipt delivered(uint64_t, const wire::EncodedMessage& update) override {
    return update.bodies.size() == 1 ? round::Receipt::kCounted : round::Receipt::kFaulty;
  }
  void failed(uint64_t, const std::string&) override {}

 private:
  uint32_t round_;
  std::shared_ptr<Bytes> body_;
};

rpc::Credentials client_credentials(const fs::path& pki, uint64_t client) {
  const std::string name = concat("client-", client);
  return rpc::read_credentials(pki / "ca.pem", pki / "clients" / (name + ".pem"),
                               pki / "clients" / (name + ".key"));
}

rpc::CheckInRequest hello(uint64_t client) {
  rpc::CheckInRequest request;
  request.num_samples = 1;
  request.data.sample_shape = {1};
  request.data.num_classes = 2;
  request.session = std::string(16, static_cast<char>('a' + client % 26));
  return request;
}

double processor_seconds() {
  rusage use{};
  ::getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

double resident_mb() {
  std::ifstream file("/proc/self/statm");
  double pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

// ---------------------------------------------------------------- the clients' process

// Does every task that there is until the run is over.
void play(uint16_t port, const fs::path& pki, uint64_t client, size_t up_bytes) {
  rpc::ConnectionOptions options;
  options.server = concat("localhost:", port);
  options.credentials = client_credentials(pki, client);
  rpc::Connection connection(options);
  const rpc::CheckInRequest request = hello(client);
  wire::EncodedMessage message;
  message.head = {1};
  message.bodies.push_back(std::make_shared<Bytes>(up_bytes, static_cast<uint8_t>(client)));
  const Bytes update = wire::write_stream(message);
  message.bodies.clear();
  const uint64_t digest = digest64(update);
  connection.check_in(request);  // the round begins when everybody is ready
  while (true) {
    const rpc::AwaitReply reply = connection.await({0, request.session, 30'000});
    if (std::holds_alternative<rpc::Finished>(reply.next)) return;
    const auto* task = std::get_if<rpc::TaskNotice>(&reply.next);
    if (task == nullptr) continue;
    uint64_t received = 0;
    connection.fetch({task->ticket, request.session, task->digest, 0},
                     [&](uint64_t, const rpc::Pieces& data) {
                       for (const auto piece : data) received += piece.size();
                     });
    if (received != task->bytes) fail("bench", "a task is not whole");
    rpc::PushReply verdict;
    do {
      if (verdict.verdict == rpc::Verdict::kBusy)  // others first (network.max_uploads)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      verdict =
          connection.push({task->ticket, request.session, task->digest, update.size(), digest},
                          [&](uint64_t offset, std::span<uint8_t> out) {
                            std::memcpy(out.data(), update.data() + offset, out.size());
                          });
    } while (verdict.verdict == rpc::Verdict::kBusy);
    if (verdict.verdict != rpc::Verdict::kAccepted)
      fail("bench", "an update was refused: ", verdict.detail);
  }
}

// Every client comes at its time, `per_s` of them a second (0: as many as there can be, 16 at a
// time), and waits once. Prints the median and the 99th percentile of check-in, from the first byte
// of the connection on, the 99th percentile of the delay of its task, and check-ins per second.
void wait_all(uint16_t port, const fs::path& pki, uint64_t clients, double per_s) {
  std::vector<double> check_ins(clients), wakes(clients);
  std::vector<std::thread> threads;
  constexpr uint64_t kSide = 16;
  std::vector<std::unique_ptr<rpc::Connection>> connections(clients);
  const Stopwatch arrivals;
  for (uint64_t side = 0; side < kSide; ++side) {
    threads.emplace_back([&, side] {
      for (uint64_t client = side; client < clients; client += kSide) {
        rpc::ConnectionOptions options;
        options.server = concat("localhost:", port);
        options.credentials = client_credentials(pki, client);
        connections[client] = std::make_unique<rpc::Connection>(options);
        // From the moment at which it was to come: who waits for another one's check-in waits.
        const double due = per_s > 0 ? static_cast<double>(client) / per_s : arrivals.seconds();
        if (const double early = due - arrivals.seconds(); early > 0)
          std::this_thread::sleep_for(std::chrono::duration<double>(early));
        connections[client]->check_in(hello(client));
        check_ins[client] = arrivals.seconds() - due;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double rate = static_cast<double>(clients) / arrivals.seconds();
  threads.clear();
  const Stopwatch clock;
  std::vector<double> at(clients, 0);
  for (uint64_t client = 0; client < clients; ++client) {
    threads.emplace_back([&, client] {
      while (true) {
        const rpc::AwaitReply reply =
            connections[client]->await({0, hello(client).session, 60'000});
        if (std::holds_alternative<rpc::TaskNotice>(reply.next)) break;
        if (std::holds_alternative<rpc::Finished>(reply.next)) return;
      }
      at[client] = clock.seconds();
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<double> woken;
  for (const double time : at)
    if (time > 0) woken.push_back(time);
  const double begin = *std::min_element(woken.begin(), woken.end());
  for (double& time : woken) time -= begin;
  std::printf("%.6f %.6f %.6f %.1f\n", quantile(check_ins, 0.5), quantile(check_ins, 0.99),
              quantile(woken, 0.99), rate);
}

// ---------------------------------------------------------------- plain TLS

using Context = std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)>;
using Channel = std::unique_ptr<SSL, void (*)(SSL*)>;

Context tls(const fs::path& pki, bool server) {
  Context context(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()), SSL_CTX_free);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  if (server) {
    SSL_CTX_use_certificate_file(context.get(), (pki / "server.pem").c_str(), SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(context.get(), (pki / "server.key").c_str(), SSL_FILETYPE_PEM);
  }
  return context;
}

void send_all(SSL* channel, size_t bytes) {
  const Bytes piece(256 << 10, uint8_t{5});
  while (bytes > 0) {
    const int sent =
        SSL_write(channel, piece.data(), static_cast<int>(std::min(bytes, piece.size())));
    if (sent <= 0) fail("bench", "plain TLS: a write failed");
    bytes -= static_cast<size_t>(sent);
  }
}

void receive_all(SSL* channel, size_t bytes) {
  Bytes piece(256 << 10);
  while (bytes > 0) {
    const int got =
        SSL_read(channel, piece.data(), static_cast<int>(std::min(bytes, piece.size())));
    if (got <= 0) fail("bench", "plain TLS: a read failed");
    bytes -= static_cast<size_t>(got);
  }
}

void plain_client(uint16_t port, const fs::path& pki, size_t clients, size_t down, size_t up) {
  const Context context = tls(pki, false);
  std::vector<std::thread> threads;
  for (size_t client = 0; client < clients; ++client) {
    threads.emplace_back([&] {
      const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(port);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
        fail("bench", "no connection");
      const Channel channel(SSL_new(context.get()), SSL_free);
      SSL_set_fd(channel.get(), socket);
      if (SSL_connect(channel.get()) != 1) fail("bench", "no handshake");
      receive_all(channel.get(), down);
      send_all(channel.get(), up);
      ::close(socket);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

double plain_copy(const std::string& program, const fs::path& pki, size_t clients, size_t down,
                  size_t up) {
  const Context context = tls(pki, true);
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener, 1024) != 0)
    fail("bench", "cannot listen");
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  auto others = std::async(std::launch::async, [&] {
    numbers_of_run(program,
                   text("--plain %u --pki '%s' --clients %zu --down-kb %zu --up-kb %zu",
                        ntohs(address.sin_port), pki.c_str(), clients, down / 1000, up / 1000),
                   1);
  });
  std::vector<int> sockets;
  for (size_t client = 0; client < clients; ++client)
    sockets.push_back(::accept(listener, nullptr, nullptr));
  const Stopwatch watch;
  std::vector<std::thread> threads;
  for (const int socket : sockets) {
    threads.emplace_back([&, socket] {
      const Channel channel(SSL_new(context.get()), SSL_free);
      SSL_set_fd(channel.get(), socket);
      if (SSL_accept(channel.get()) != 1) fail("bench", "no handshake");
      send_all(channel.get(), down);
      receive_all(channel.get(), up);
      ::close(socket);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = watch.seconds();
  others.get();
  ::close(listener);
  return seconds;
}

double bare_copy(const std::string& program, const fs::path& pki, size_t clients, size_t down,
                 size_t up) {
  const BareServer server(
      rpc::read_credentials(pki / "ca.pem", pki / "server.pem", pki / "server.key"), down);
  return numbers_of_run(program,
                        text("--bare %u --pki '%s' --clients %zu --up-kb %zu", server.port(),
                             pki.c_str(), clients, up / 1000),
                        1)[0];
}

// ---------------------------------------------------------------- the server's process

struct Federation {
  explicit Federation(uint64_t clients, size_t up_bytes) {
    std::string name = (fs::temp_directory_path() / "network-bench-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("bench", "no temporary folder");
    folder = name;
    rpc::Authority authority = rpc::Authority::create(folder / "pki", "bench", {});
    for (uint64_t client = 0; client < clients; ++client) authority.issue(client, 1);
    serve::NetworkOptions options;
    options.run = 1;
    options.num_clients = clients;
    options.version.task_format = 0;
    options.folder = folder / "server";
    options.max_update_bytes = up_bytes + 1000;
    options.spool_bytes = 0;  // what was counted goes at once
    options.workers = 2;
    fs::create_directories(options.folder);
    backend.emplace(options);
    rpc::DataSpec data;
    data.sample_shape = {1};
    data.num_classes = 2;
    backend->describe(data);
    rpc::ServerOptions listening;
    listening.listen = "127.0.0.1:0";
    listening.credentials = rpc::read_credentials(folder / "pki/ca.pem", folder / "pki/server.pem",
                                                  folder / "pki/server.key");
    listening.federation = "bench";
    server.emplace(listening, *backend);
  }
  ~Federation() {
    server.reset();
    backend.reset();
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
  fs::path folder;
  std::optional<serve::NetworkBackend> backend;
  std::optional<rpc::Server> server;
};

std::vector<uint64_t> ids(uint64_t count) {
  std::vector<uint64_t> all(count);
  for (uint64_t i = 0; i < count; ++i) all[i] = i;
  return all;
}

void transfers(const std::string& program, uint64_t clients, size_t down, size_t up, int64_t rounds,
               bool json) {
  Federation federation(clients, up);
  Traffic traffic(1, down);
  const double before_mb = resident_mb();
  auto others = std::async(std::launch::async, [&] {
    numbers_of_run(program,
                   text("--client-of %u --pki '%s' --clients %llu --up-kb %zu",
                        federation.server->port(), (federation.folder / "pki").c_str(),
                        static_cast<unsigned long long>(clients), up / 1000),
                   1);
  });
  federation.backend->wait_for_clients(120, nullptr, [](uint64_t, uint64_t) {});
  Table table(
      json,
      "clients   down each     up each   round s   plain TLS s   ratio   bare gRPC s   ratio  "
      " server processor s   resident MB: before, peak, after");
  std::vector<double> seconds;
  const double processor = processor_seconds();
  double first_mb = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    const Stopwatch watch;
    federation.backend->run(ids(clients), traffic);
    seconds.push_back(watch.seconds());
    traffic.next_round();
    if (round == 0) first_mb = resident_mb();
  }
  const double used = (processor_seconds() - processor) / static_cast<double>(rounds);
  const double after_mb = resident_mb(), peak_mb = static_cast<double>(peak_rss_bytes()) / 1e6;
  federation.backend->finish(true, "", 20);
  others.get();
  const double plain = plain_copy(program, federation.folder / "pki", clients, down, up);
  const double bare = bare_copy(program, federation.folder / "pki", clients, down, up);
  const double mid = median(seconds);
  table.row({{"clients", clients},
             {"down_bytes", down},
             {"up_bytes", up},
             {"rounds", rounds},
             {"seconds", mid},
             {"plain_tls_seconds", plain},
             {"ratio", mid / plain},
             {"bare_grpc_seconds", bare},
             {"bare_ratio", mid / bare},
             {"server_processor_seconds", used},
             {"before_mb", before_mb},
             {"peak_mb", peak_mb},
             {"first_mb", first_mb},
             {"after_mb", after_mb}},
            text("%7llu %11zu %11zu %9.3f %13.3f %7.2f %13.3f %7.2f %20.2f   %.0f, %.0f, %.0f "
                 "(%.0f after the first round)",
                 static_cast<unsigned long long>(clients), down, up, mid, plain, mid / plain, bare,
                 mid / bare, used, before_mb, peak_mb, after_mb, first_mb));
  table.finish();
}

void idle(const std::string& program, uint64_t clients, int64_t per_s, bool json) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  Federation federation(clients, 1000);
  Traffic traffic(1, 1000);
  const double before_mb = resident_mb();
  auto others = std::async(std::launch::async, [&] {
    return numbers_of_run(
        program,
        text("--wait-for %u --pki '%s' --clients %llu --per-s %lld", federation.server->port(),
             (federation.folder / "pki").c_str(), static_cast<unsigned long long>(clients),
             static_cast<long long>(per_s)),
        4);
  });
  federation.backend->wait_for_clients(300, nullptr, [](uint64_t, uint64_t) {});
  std::this_thread::sleep_for(std::chrono::seconds(5));  // everybody waits
  const double each_kb = (resident_mb() - before_mb) * 1000 / static_cast<double>(clients);
  const double processor = processor_seconds();
  constexpr double kQuiet = 20;
  std::this_thread::sleep_for(std::chrono::duration<double>(kQuiet));
  const double share = (processor_seconds() - processor) / kQuiet;
  // All are woken; nobody answers, and the exchange ends when it has been told so.
  std::thread round([&] {
    try {
      federation.backend->run(ids(clients), traffic);
    } catch (const Error&) {
    }
  });
  const std::vector<double> found = others.get();
  federation.backend->finish(true, "", 0);
  for (uint64_t client = 0; client < clients; ++client) {
    try {
      federation.backend->report(
          {client, "", ""},
          {{1, 1, 0, 1, 0}, hello(client).session, rpc::Phase::kFailed, 0, "bench"});
    } catch (const Error&) {
    }
  }
  round.join();
  Table table(
      json,
      "idle clients   check-ins/s   check-in p50, p99 ms   wake-up p99 ms   KB each   share "
      "of a core while idle");
  table.row({{"clients", clients},
             {"check_ins_per_s", found[3]},
             {"check_in_p50", found[0]},
             {"check_in_p99", found[1]},
             {"wake_p99", found[2]},
             {"kb_each", each_kb},
             {"idle_share", share}},
            text("%12llu %13.0f %11.1f, %8.1f %16.1f %9.0f %28.4f",
                 static_cast<unsigned long long>(clients), found[3], found[0] * 1e3, found[1] * 1e3,
                 found[2] * 1e3, each_kb, share));
  table.finish();
}

int run(int argc, char** argv) {
  configure_heap();  // as espalier does
  rpc::require_tls13();
  Arguments arguments(argc, argv);
  const auto clients = static_cast<uint64_t>(arguments.number("--clients", 6));
  const auto down = static_cast<size_t>(arguments.number("--down-kb", 500'000)) * 1000,
             up = static_cast<size_t>(arguments.number("--up-kb", 500'000)) * 1000;
  const int64_t rounds = arguments.number("--rounds", 1),
                waiting = arguments.number("--idle", 0, 0),
                per_s = arguments.number("--per-s", 100, 0);
  const bool json = arguments.flag("--json");
  // This program's own children.
  const auto client_of = static_cast<uint16_t>(arguments.number("--client-of", 0, 0)),
             plain = static_cast<uint16_t>(arguments.number("--plain", 0, 0)),
             bare = static_cast<uint16_t>(arguments.number("--bare", 0, 0)),
             wait_for = static_cast<uint16_t>(arguments.number("--wait-for", 0, 0));
  const fs::path pki = arguments.text("--pki");
  arguments.finish(kUsage);
  if (client_of != 0) {
    std::vector<std::thread> threads;
    for (uint64_t client = 0; client < clients; ++client)
      threads.emplace_back([&, client] { play(client_of, pki, client, up); });
    for (std::thread& thread : threads) thread.join();
    std::printf("0\n");
  } else if (plain != 0) {
    plain_client(plain, pki, clients, down, up);
    std::printf("0\n");
  } else if (bare != 0) {
    std::barrier together(static_cast<std::ptrdiff_t>(clients) + 1);
    std::vector<std::thread> threads;
    for (uint64_t client = 0; client < clients; ++client)
      threads.emplace_back(
          [&, client] { bare_client(bare, client_credentials(pki, client), up, together); });
    together.arrive_and_wait();
    const Stopwatch watch;
    for (std::thread& thread : threads) thread.join();
    std::printf("%.6f\n", watch.seconds());
  } else if (wait_for != 0) {
    wait_all(wait_for, pki, clients, static_cast<double>(per_s));
  } else if (waiting > 0) {
    idle(arguments.program(), static_cast<uint64_t>(waiting), per_s, json);
  } else {
    transfers(arguments.program(), clients, down, up, rounds, json);
  }
  return 0;
}

}  // namespace
}  // namespace espalier::bench

int main(int argc, char** argv) {
  try {
    return espalier::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "network_bench: %s\n", error.what());
    return 1;
  }
}
