#include "espalier/live/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "espalier/base/test_error.h"
#include "espalier/live/http_client.h"

namespace espalier::live {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// What comes back for these bytes, until the server closes. It need not read a request to its end
// that is `refused` for its length; of any other it takes all.
std::string talk(uint16_t port, const std::string& request, bool refused = false) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const ssize_t sent = ::send(socket, request.data(), request.size(), MSG_NOSIGNAL);
  if (refused) {
    EXPECT_GT(sent, 0);
  } else {
    EXPECT_EQ(sent, static_cast<ssize_t>(request.size()));
  }
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = ::recv(socket, buffer, sizeof(buffer), 0)) > 0;)
    answer.append(buffer, static_cast<size_t>(count));
  ::close(socket);
  return answer;
}

std::string get(uint16_t port, const std::string& path, const std::string& host = "localhost") {
  return talk(port, "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n");
}

TEST(HttpServer, ShowsTheBoard) {
  Board board({{"name", "<run>"}}, 3);
  board.add_round({{"round", 1}, {"accuracy", 0.5}});
  const HttpServer server("127.0.0.1:0", board, "<run>");
  const std::string page = get(server.port(), "/");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(page, HasSubstr("&lt;run&gt;"));
  EXPECT_THAT(page, HasSubstr("Content-Security-Policy"));
  EXPECT_THAT(get(server.port(), "/status.json"), HasSubstr("\"accuracy\":[0.5]"));
  EXPECT_THAT(get(server.port(), "/status.json?since=1"), HasSubstr("\"accuracy\":[]"));
  EXPECT_THAT(get(server.port(), "/status.json?since=x"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(get(server.port(), "/metrics"), HasSubstr("espalier_round 1"));
  EXPECT_THAT(get(server.port(), "/healthz"), HasSubstr("ok"));
  EXPECT_THAT(get(server.port(), "/../etc/passwd"), StartsWith("HTTP/1.1 404"));
}

TEST(HttpServer, AnswersThisMachineAndReadersAlone) {
  Board board({}, 1);
  const HttpServer server("127.0.0.1:0", board, "run");
  EXPECT_THAT(get(server.port(), "/status.json", "evil.example"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(get(server.port(), "/status.json", "127.0.0.1:1"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(talk(server.port(),
                   "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nConnection: "
                   "close\r\n\r\nabc"),
              StartsWith("HTTP/1.1 405"));
  // Long heads and nonsense end the connection and nothing else.
  talk(server.port(),
       "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(1 << 20, 'x') + "\r\n\r\n", true);
  talk(server.port(), std::string("\x16\x03\x01\x02\x00\x01\x00", 7) + "\r\n\r\n");
  EXPECT_THAT(get(server.port(), "/healthz"), HasSubstr("ok"));
}

TEST(HttpServer, AddressesThatAreOpenToOthersAreRefused) {
  Board board({}, 1);
  const auto refused = [&](const std::string& listen) {
    return error_of([&] { HttpServer server(listen, board, ""); });
  };
  EXPECT_THAT(refused("0.0.0.0:0"), HasSubstr("for this machine alone"));
  EXPECT_THAT(refused("9464"), HasSubstr("expected an address"));
  EXPECT_THAT(refused("127.0.0.1:x"), HasSubstr("expected an address"));
  const HttpServer server("localhost:0", board, "");
  EXPECT_THAT(refused(concat("127.0.0.1:", server.port())), HasSubstr("cannot listen"));
}

TEST(HttpServer, WithATokenAnswersWhoKnowsIt) {
  Board board({}, 1);
  const HttpServer server("0.0.0.0:0", board, "run", "s3cret");
  const std::string url = server.url();
  EXPECT_THAT(get(server.port(), "/", "elsewhere.example"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(get(server.port(), "/healthz", "elsewhere.example"), StartsWith("HTTP/1.1 200"));
  for (const char* wrong :
       {"", "Authorization: Bearer s3cre\r\n", "Authorization: Bearer s3cret2\r\n",
        "Authorization: Bearer \r\n", "Authorization: Basic s3cret\r\n"}) {
    const std::string request = concat("GET /status.json HTTP/1.1\r\nHost: elsewhere.example\r\n",
                                       wrong, "Connection: close\r\n\r\n");
    EXPECT_THAT(talk(server.port(), request), StartsWith("HTTP/1.1 401")) << wrong;
  }
  EXPECT_THAT(http_get(url + "status.json", "s3cret"), HasSubstr("\"state\":\"waiting\""));
  EXPECT_THAT(error_of([&] { http_get(url + "metrics"); }), HasSubstr("401"));
}

TEST(HttpServer, SaysWhenTheRunIsOver) {
  Board board({}, 1);
  const HttpServer server("127.0.0.1:0", board, "run");
  EXPECT_EQ(http_get(server.url() + "readyz"), "waiting\n");
  board.set_state("done");
  EXPECT_THAT(error_of([&] { http_get(server.url() + "readyz"); }), HasSubstr("503: done"));
  EXPECT_EQ(http_get(server.url() + "healthz"), "ok\n");
}

TEST(HttpClient, SaysWhatToDoWhenNobodyIsThere) {
  uint16_t port = 0;
  {
    Board board({}, 1);
    port = HttpServer("127.0.0.1:0", board, "run").port();
  }
  EXPECT_THAT(error_of([&] { http_get(concat("http://127.0.0.1:", port, "/")); }),
              HasSubstr("nobody answers"));
  EXPECT_THAT(error_of([] { http_get("127.0.0.1:9464"); }), HasSubstr("http://"));
}

}  // namespace
}  // namespace espalier::live
