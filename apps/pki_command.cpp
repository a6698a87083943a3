#include <cstdio>
#include <memory>

#include "apps/command.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/rpc/certificates.h"

namespace espalier::apps {

namespace {

struct Arguments {
  std::string folder, federation = "federation", csr, what;
  std::vector<std::string> hosts;
  std::vector<uint64_t> clients;
  int64_t days = 90, server_days = rpc::Authority::kServerDays;
};

void issue(const Arguments& arguments) {
  rpc::Authority authority = rpc::Authority::open(arguments.folder);
  if (!arguments.csr.empty() && arguments.clients.size() != 1)
    fail("pki", "--csr is one client's request; name one client");
  for (const uint64_t client : arguments.clients) {
    const auto path = authority.issue(client, static_cast<int>(arguments.days), arguments.csr);
    std::printf("%s\n", path.c_str());
  }
}

}  // namespace

void add_pki_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "pki", "Certificates for a network of clients: make an authority, issue, renew, revoke");
  command->require_subcommand(1);
  command->footer(
      "Example:\n"
      "  espalier pki init pki --host server.example --host 10.0.0.7\n"
      "  espalier pki issue pki 0 1 2\n"
      "  espalier pki revoke pki 2");

  CLI::App* init = command->add_subcommand(
      "init", "Make an authority (CA) and the server's certificate in a new folder");
  init->add_option("DIR", arguments->folder, "Folder for keys and certificates")->required();
  init->add_option("--host", arguments->hosts,
                   "Name or address by which clients reach the server (repeatable); localhost, "
                   "127.0.0.1 and ::1 are always among them")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  init->add_option("--federation", arguments->federation, "Name in every certificate")
      ->capture_default_str();
  init->footer("Example:\n  espalier pki init pki --host server.example");
  init->callback([arguments] {
    rpc::Authority::create(arguments->folder, arguments->federation, arguments->hosts);
    std::printf(
        "%s: ca.key stays here; the server needs ca.pem, server.pem, server.key and "
        "index.json, a client ca.pem and its own pair\n",
        arguments->folder.c_str());
  });

  CLI::App* server = command->add_subcommand(
      "server", "Make another key and certificate for the server: other hosts, or a later end");
  server->add_option("DIR", arguments->folder, "Folder of the authority")->required();
  server
      ->add_option("--host", arguments->hosts,
                   "As for init; by default those of the certificate that the server has")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  server->add_option("--days", arguments->server_days, "How long it is valid")
      ->check(CLI::Range(1, 3650))
      ->capture_default_str();
  server->footer("Example:\n  espalier pki server pki --host server.example --host 10.0.0.8");
  server->callback([arguments] {
    rpc::Authority::open(arguments->folder)
        .issue_server(arguments->hosts, static_cast<int>(arguments->server_days));
    std::printf("%s: server.pem and server.key are new; the server reads them when it starts\n",
                arguments->folder.c_str());
  });

  CLI::App* issue_command =
      command->add_subcommand("issue", "Issue the certificates of clients, by their ids");
  issue_command->add_option("DIR", arguments->folder, "Folder of the authority")->required();
  issue_command->add_option("ID", arguments->clients, "Clients: 0 to one less than there are")
      ->required();
  issue_command->add_option("--csr", arguments->csr,
                            "A request (PEM, P-256) made on the device, whose key stays there");
  issue_command->add_option("--days", arguments->days, "How long they are valid")
      ->check(CLI::Range(1, 3650))
      ->capture_default_str();
  issue_command->footer("Example:\n  espalier pki issue pki 0 1 2 --days 30");
  issue_command->callback([arguments] { issue(*arguments); });

  CLI::App* revoke = command->add_subcommand(
      "revoke", "Revoke what was issued to a client, or one certificate by its serial number");
  revoke->add_option("DIR", arguments->folder, "Folder of the authority")->required();
  revoke->add_option("ID|SERIAL", arguments->what, "A client's id, or the serial number's digits")
      ->required();
  revoke->footer("Example:\n  espalier pki revoke pki 2");
  revoke->callback([arguments] {
    const size_t count = rpc::Authority::open(arguments->folder).revoke(arguments->what);
    std::printf(
        "revoked %zu; a running server that reads this index.json refuses %s within a "
        "second\n",
        count, count == 1 ? "it" : "them");
  });
}

}  // namespace espalier::apps
