#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "apps/command.h"
#include "apps/tokens.h"
#include "espalier/base/error.h"
#include "espalier/base/printable.h"
#include "espalier/live/http_client.h"
#include "espalier/report/human.h"
#include "espalier/report/text_table.h"

namespace espalier::apps {

namespace {

struct StatusArguments {
  std::string address = "127.0.0.1:9464", token_file;
  bool json = false, metrics = false;
};

std::string text_of(const Json& status) {
  std::string text;
  const auto line = [&](const char* name, const std::string& value) {
    if (!value.empty())
      text += concat(std::string(name).append(10 - std::string(name).size(), ' '), value, "\n");
  };
  const auto number = [&](const char* key) { return status.value(key, 0.0); };
  line("run", concat(status.value("name", ""), " (", status.value("strategy", ""), ", ",
                     status.value("model", ""), ", ", status.value("data", ""), ")"));
  std::string progress = concat("round ", number("round"), " of ", number("rounds"));
  if (number("clients_total") > 0)
    progress += concat(", ", number("clients_done"), " of ", number("clients_total"),
                       " clients of the next one have answered");
  line("state", concat(status.value("state", ""), ", ", progress));
  if (number("seconds_left") > 0) line("left", report::human_seconds(number("seconds_left")));
  const Json last = status.value("last", Json::object());
  if (last.contains("accuracy"))
    line("accuracy", report::human_percent(last.value("accuracy", 0.0)));
  if (last.contains("bytes_down_total"))
    line("bytes", concat(report::human_bytes(last.value("bytes_down_total", 0.0)), " down, ",
                         report::human_bytes(last.value("bytes_up_total", 0.0)), " up"));
  if (number("clients_failed") > 0) line("failures", concat(number("clients_failed")));
  const Json devices = status.value("devices", Json::array());
  if (!devices.empty()) {
    text += "\n";
    std::vector<std::vector<std::string>> rows = {{"client", "state", "progress", "detail"}};
    for (const Json& device : devices) {
      const bool here = device.value("connected", false);
      const double progress_of = device.value("progress", 0.0);
      rows.push_back({std::to_string(device.value("client", uint64_t{0})),
                      here                              ? device.value("phase", "")
                      : device.value("enrolled", false) ? "away"
                                                        : "never seen",
                      here && progress_of > 0 ? report::human_percent(progress_of) : "",
                      printable(device.value("detail", ""))});
    }
    text += report::text_table(rows);
  }
  const Json notes = status.value("notes", Json::array());
  if (!notes.empty()) text += "\n";
  for (const Json& note : notes) text += concat("note: ", printable(note.get<std::string>()), "\n");
  return text;
}

void print_status(const StatusArguments& arguments) {
  std::string url = arguments.address;
  if (url.find("://") == std::string::npos) url = "http://" + url;
  while (url.ends_with('/')) url.pop_back();
  const std::string token = read_token(arguments.token_file);
  if (arguments.metrics) {
    std::printf("%s", live::http_get(url + "/metrics", token).c_str());
    return;
  }
  const std::string body = live::http_get(url + "/status.json", token);
  if (arguments.json) {
    std::printf("%s\n", body.c_str());
    return;
  }
  const Json status = Json::parse(body, nullptr, false);
  if (!status.is_object()) fail("status", url, " answers, but it is no espalier server");
  std::printf("%s", text_of(status).c_str());
}

}  // namespace

void add_status_command(CLI::App& app) {
  auto arguments = std::make_shared<StatusArguments>();
  CLI::App* command =
      app.add_subcommand("status", "Say what a running serve, or simulate --live, is doing");
  command->add_option("URL", arguments->address,
                      "Address of its live page; default 127.0.0.1:9464");
  command->add_option("--token-file", arguments->token_file,
                      "server.status_token_file, where the server has one");
  CLI::Option* json = command->add_flag("--json", arguments->json, "status.json as it is");
  command->add_flag("--metrics", arguments->metrics, "Prometheus' text as it is")->excludes(json);
  command->footer(
      "Examples:\n"
      "  espalier status\n"
      "  espalier status http://127.0.0.1:40123/ --json\n"
      "Exit codes: 0 it runs and answers, 2 nobody answers there.");
  command->callback([arguments] { print_status(*arguments); });
}

}  // namespace espalier::apps
