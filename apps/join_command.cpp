#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "apps/command.h"
#include "apps/interrupts.h"
#include "espalier/base/error.h"
#include "espalier/join/joiner.h"
#include "espalier/nn/graph_net.h"
#include "espalier/run/join_run.h"

namespace espalier::apps {

namespace {

namespace fs = std::filesystem;

struct JoinArguments {
  std::string server, data, folder, pki, ca, certificate, key, device;
  std::string eligible, hours, module;
  int64_t client = -1, retry_max_s = 300, memory_mb = 0, max_mb_per_day = 0, nice = 0;
  bool insecure = false, quiet = false;
};

rpc::Credentials credentials_of(const JoinArguments& arguments) {
  if (arguments.insecure) {
    if (arguments.client < 0) fail("join", "--insecure needs --client ID: who this is");
    rpc::Credentials none;
    none.insecure = true;
    return none;
  }
  fs::path ca = arguments.ca, certificate = arguments.certificate, key = arguments.key;
  if (!arguments.pki.empty()) {
    if (arguments.client < 0) fail("join", "--pki needs --client ID: whose certificate it is");
    const fs::path pki = arguments.pki;
    ca = pki / "ca.pem";
    certificate = pki / "clients" / concat("client-", arguments.client, ".pem");
    key = pki / "clients" / concat("client-", arguments.client, ".key");
  }
  return rpc::read_credentials(ca, certificate, key);
}

void join_command(const JoinArguments& arguments) {
  join::JoinOptions options;
  options.connection.server = arguments.server;
  options.connection.credentials = credentials_of(arguments);
  options.connection.insecure_client =
      static_cast<uint64_t>(std::max<int64_t>(0, arguments.client));
  options.folder =
      arguments.folder.empty() ? fs::path(arguments.data) / "espalier" : fs::path(arguments.folder);
  options.device = arguments.device;
  options.instructions = nn::instructions();
  options.module = arguments.module;
  options.memory_bytes = static_cast<uint64_t>(arguments.memory_mb) * 1'000'000;
  options.eligibility = {arguments.eligible,
                         arguments.hours,
                         static_cast<uint64_t>(arguments.max_mb_per_day) * 1'000'000,
                         {}};
  if (arguments.nice > 0 && ::setpriority(PRIO_PROCESS, 0, static_cast<int>(arguments.nice)) != 0)
    fail("join", "cannot lower this process's priority: ", std::strerror(errno));
  options.retry_max_ms = static_cast<uint32_t>(arguments.retry_max_s * 1000);
  if (!arguments.quiet)
    options.say = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  data::LoadedData data = run::load_shard(arguments.data);
  join::Joiner joiner(std::move(options), std::move(data.train), std::move(data.test));
  const auto* stop = catch_interrupts("\nStopping; the run can be joined again.\n");
  switch (joiner.run(stop)) {
    case join::Joiner::End::kCompleted:
      return;
    case join::Joiner::End::kEndedEarly:
      throw Failed();
    case join::Joiner::End::kStopped:
      throw Interrupted();
  }
}

}  // namespace

void add_join_command(CLI::App& app) {
  auto arguments = std::make_shared<JoinArguments>();
  CLI::App* command =
      app.add_subcommand("join", "Take part in a training as one client, with data of its own");
  command->add_option("SERVER", arguments->server, "Host and port of `espalier serve`")->required();
  command
      ->add_option("--data", arguments->data,
                   "Folder with train.safetensors and perhaps test.safetensors")
      ->required();
  command->add_option("--folder", arguments->folder,
                      "What the client keeps between rounds; default: espalier in the data's "
                      "folder");
  command->add_option("--pki", arguments->pki,
                      "Folder of `espalier pki`, for tries on one machine; needs --client");
  command->add_option("--client", arguments->client, "The client's id, with --pki or --insecure")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--ca", arguments->ca, "The federation's CA (PEM)");
  command->add_option("--cert", arguments->certificate, "This client's certificate (PEM)");
  command->add_option("--key", arguments->key, "Its key (PEM, readable for its owner alone)");
  command->add_option("--device", arguments->device, "What the client calls what it runs on");
  command
      ->add_option("--retry-max-s", arguments->retry_max_s,
                   "Longest pause between two tries to reach the server")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  command->add_option("--module", arguments->module,
                      "The TorchScript module of a run that trains one: the very file that the "
                      "server has");
  command
      ->add_option("--memory-mb", arguments->memory_mb,
                   "Memory that training may take; a task that needs more fails; default: any")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--eligible", arguments->eligible,
                      "Command whose status is 0 while this device may work: idle, charging, "
                      "unmetered, say");
  command->add_option("--hours", arguments->hours, "Local hours in which it may work, as in 22-6");
  command
      ->add_option("--max-mb-per-day", arguments->max_mb_per_day,
                   "Tasks and updates per day (UTC); default: any")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--nice", arguments->nice, "Lower the priority by so much")
      ->check(CLI::Range(0, 19));
  command->add_flag(
      "--insecure", arguments->insecure,
      "Neither encryption nor certificates; a server on this machine alone; needs --client");
  command->add_flag("--quiet", arguments->quiet, "Say nothing but errors");
  command->footer(
      "Examples:\n"
      "  espalier join server.example:8443 --data shard --ca ca.pem --cert client-3.pem --key "
      "client-3.key\n"
      "  espalier join localhost:8443 --data shards/client-3 --pki pki --client 3\n"
      "It waits for a server that is not there, and goes on where it was after any break.\n"
      "Exit codes: 0 the run is complete, 1 the server ended it early, 2 the input is wrong, 3 "
      "interrupted (the same command goes on).");
  command->callback([arguments] { join_command(*arguments); });
}

}  // namespace espalier::apps
