#include "espalier/live/http_client.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "espalier/base/error.h"

namespace espalier::live {

namespace {

class Socket {
 public:
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

Socket connected(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int status = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); status != 0)
    fail("status", host, ": ", ::gai_strerror(status));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> all(found, ::freeaddrinfo);
  int error = 0;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    Socket socket(::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol));
    const timeval ten_seconds{10, 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &ten_seconds, sizeof ten_seconds);
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &ten_seconds, sizeof ten_seconds);
    if (::connect(socket.get(), one->ai_addr, one->ai_addrlen) == 0) return socket;
    error = errno;
  }
  fail("status", "nobody answers at ", host, ":", port, " (", std::strerror(error),
       "); is the run over, or its page elsewhere? `serve` and `simulate --live` say where");
}

}  // namespace

std::string http_get(const std::string& url, const std::string& token) {
  constexpr std::string_view kScheme = "http://";
  constexpr size_t kMost = size_t{64} << 20;
  if (!url.starts_with(kScheme)) fail("status", "expected an address like http://127.0.0.1:9464/");
  const size_t slash = std::min(url.find('/', kScheme.size()), url.size());
  const std::string authority = url.substr(kScheme.size(), slash - kScheme.size());
  const size_t colon = authority.rfind(':');
  const std::string host = authority.substr(0, colon);
  const std::string port = colon == std::string::npos ? "80" : authority.substr(colon + 1);
  const std::string path = slash == url.size() ? "/" : url.substr(slash);
  const Socket socket = connected(host, port);
  // HTTP/1.0: the answer comes in one piece and ends with the connection.
  std::string request = concat("GET ", path, " HTTP/1.0\r\nHost: ", authority, "\r\n");
  if (!token.empty()) request += concat("Authorization: Bearer ", token, "\r\n");
  request += "\r\n";
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t count =
        ::send(socket.get(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("status", authority, ": ", std::strerror(errno));
    sent += static_cast<size_t>(count);
  }
  std::string answer;
  char buffer[16384];
  while (answer.size() < kMost) {
    const ssize_t count = ::recv(socket.get(), buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("status", authority, ": ", std::strerror(errno));
    if (count == 0) break;
    answer.append(buffer, static_cast<size_t>(count));
  }
  const size_t body = answer.find("\r\n\r\n");
  if (!answer.starts_with("HTTP/1.") || body == std::string::npos)
    fail("status", authority, " speaks no HTTP; is that the live page's port?");
  std::string text = answer.substr(body + 4);
  if (answer.substr(9, 3) != "200") {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    fail("status", authority, " answers ", answer.substr(9, 3), ": ", text.substr(0, 200));
  }
  return text;
}

}  // namespace espalier::live
