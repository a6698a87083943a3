#include "espalier/live/http_server.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>
#include <string_view>

#include "espalier/base/error.h"
#include "espalier/live/page.h"

namespace espalier::live {

namespace {

struct Answer {
  unsigned status = MHD_HTTP_OK;
  const char* kind = "text/plain; charset=utf-8";
  std::string body;
};

MHD_Result send(MHD_Connection* connection, const Answer& answer) {
  MHD_Response* response = MHD_create_response_from_buffer(
      answer.body.size(), const_cast<char*>(answer.body.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, "Content-Type", answer.kind);
  MHD_add_response_header(response, "Cache-Control", "no-store");
  MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
  MHD_add_response_header(response, "Content-Security-Policy",
                          "default-src 'none'; style-src 'unsafe-inline'; script-src "
                          "'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors "
                          "'none'");
  if (answer.status == MHD_HTTP_UNAUTHORIZED)
    MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
  if (answer.status == MHD_HTTP_METHOD_NOT_ALLOWED)
    MHD_add_response_header(response, "Allow", "GET");
  const MHD_Result result = MHD_queue_response(connection, answer.status, response);
  MHD_destroy_response(response);
  return result;
}

bool is_local_host(const char* host) {
  if (host == nullptr) return false;
  std::string_view name = host;
  if (name.starts_with("[::1]")) return true;
  name = name.substr(0, name.find(':'));
  return name == "localhost" || name == "127.0.0.1";
}

// In a time that does not tell how much of it is right.
bool is_bearer(const char* given, const std::string& token) {
  constexpr std::string_view kScheme = "Bearer ";
  if (given == nullptr || !std::string_view(given).starts_with(kScheme)) return false;
  const std::string_view said = std::string_view(given).substr(kScheme.size());
  unsigned different = said.size() != token.size();
  for (size_t i = 0; i < said.size(); ++i)
    different |=
        static_cast<unsigned char>(said[i]) ^ static_cast<unsigned char>(token[i % token.size()]);
  return different == 0;
}

}  // namespace

struct HttpServer::Impl {
  Impl(const Board& shown, const std::string& title, std::string secret)
      : board(shown), page(live_page(title)), token(std::move(secret)) {}

  Answer answer(MHD_Connection* connection, std::string_view path, std::string_view method) const {
    if (method != "GET")
      return {MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "only GET is answered\n"};
    const auto header = [&](const char* name) {
      return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
    };
    if (token.empty() && !is_local_host(header("Host")))
      return {MHD_HTTP_FORBIDDEN, "text/plain; charset=utf-8",
              "this page is for its own machine: open it as localhost\n"};
    if (path == "/") return {MHD_HTTP_OK, "text/html; charset=utf-8", page};
    if (path == "/healthz") return {MHD_HTTP_OK, "text/plain; charset=utf-8", "ok\n"};
    if (path == "/readyz") {
      const std::string state = board.state();
      const bool ready = state == "waiting" || state == "running";
      return {ready ? unsigned{MHD_HTTP_OK} : unsigned{MHD_HTTP_SERVICE_UNAVAILABLE},
              "text/plain; charset=utf-8", state + "\n"};
    }
    if (!token.empty() && !is_bearer(header("Authorization"), token))
      return {MHD_HTTP_UNAUTHORIZED, "text/plain; charset=utf-8",
              "this needs the server's token: Authorization: Bearer TOKEN\n"};
    if (path == "/metrics")
      return {MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", board.metrics()};
    if (path == "/status.json") {
      uint64_t since = 0;
      if (const char* given =
              MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "since")) {
        const char* end = given + std::strlen(given);
        const auto [stop, status] = std::from_chars(given, end, since);
        if (status != std::errc() || stop != end)
          return {MHD_HTTP_BAD_REQUEST, "text/plain; charset=utf-8", "since: expected a round\n"};
      }
      return {MHD_HTTP_OK, "application/json",
              board.status(since).dump(-1, ' ', false, Json::error_handler_t::replace)};
    }
    return {MHD_HTTP_NOT_FOUND, "text/plain; charset=utf-8", "there is no such page\n"};
  }

  static MHD_Result handle(void* self, MHD_Connection* connection, const char* url,
                           const char* method, const char*, const char*, size_t*, void** seen) {
    static char mark;
    // The first call comes with the head alone; what a body says nobody wants to know.
    if (*seen == nullptr) {
      *seen = &mark;
      if (std::string_view(method) == "GET") return MHD_YES;
    }
    try {
      return send(connection, static_cast<const Impl*>(self)->answer(connection, url, method));
    } catch (const std::exception&) {
      return MHD_NO;
    }
  }

  const Board& board;
  const std::string page, token;
  MHD_Daemon* daemon = nullptr;
  uint16_t port = 0;
};

HttpServer::HttpServer(const std::string& listen, const Board& board, const std::string& title,
                       const std::string& token)
    : impl_(std::make_unique<Impl>(board, title, token)) {
  const size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  uint16_t port = 0;
  const char* begin = listen.data() + (colon == std::string::npos ? listen.size() : colon + 1);
  const char* end = listen.data() + listen.size();
  const auto [stop, status] = std::from_chars(begin, end, port);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (colon == std::string::npos || status != std::errc() || stop != end ||
      ::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1)
    fail("live", "expected an address like 127.0.0.1:9464 for the status page, got '", listen, "'");
  if (token.empty() && !host.starts_with("127."))
    fail("live", "without a token the status page is for this machine alone: 127.0.0.1, not ", host,
         "; a tunnel (ssh -L) shows it elsewhere, or set server.status_token_file");
  address.sin_port = htons(port);
  constexpr unsigned kConnections = 64, kPerAddress = 48, kSeconds = 15;
  constexpr size_t kConnectionBytes = 16 << 10;
  impl_->daemon = MHD_start_daemon(
      MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD, port, nullptr, nullptr, &Impl::handle,
      impl_.get(), MHD_OPTION_SOCK_ADDR, reinterpret_cast<sockaddr*>(&address),
      MHD_OPTION_CONNECTION_LIMIT, kConnections, MHD_OPTION_PER_IP_CONNECTION_LIMIT, kPerAddress,
      MHD_OPTION_CONNECTION_TIMEOUT, kSeconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionBytes,
      MHD_OPTION_END);
  if (impl_->daemon == nullptr)
    fail("live", "cannot listen on ", listen, ": ", std::strerror(errno),
         "; choose another port, or 0 for a free one");
  const MHD_DaemonInfo* info = MHD_get_daemon_info(impl_->daemon, MHD_DAEMON_INFO_BIND_PORT);
  impl_->port = info != nullptr ? info->port : port;
}

HttpServer::~HttpServer() {
  if (impl_ && impl_->daemon != nullptr) MHD_stop_daemon(impl_->daemon);
}

uint16_t HttpServer::port() const { return impl_->port; }

std::string HttpServer::url() const { return concat("http://127.0.0.1:", impl_->port, "/"); }

}  // namespace espalier::live
