#include "apps/tokens.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::apps {

std::string read_token(const std::string& file) {
  constexpr size_t kShortest = 16;
  if (file.empty()) return {};
  const std::string text = read_text_file(file);
  const std::string token = text.substr(0, text.find_first_of("\r\n"));
  const bool plain = std::ranges::all_of(token, [](char c) { return c > ' ' && c < '\x7f'; });
  if (token.size() < kShortest || !plain)
    fail("status", file, ": expected a token of at least ", kShortest,
         " printable characters in its first line, as `openssl rand -hex 32` makes one");
  return token;
}

}  // namespace espalier::apps
