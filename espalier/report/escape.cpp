#include "espalier/report/escape.h"

#include <cctype>

namespace espalier::report {

namespace {

bool is_absolute(std::string_view word) {
  if (word.empty()) return false;
  if (word.starts_with("file:") || word.starts_with("\\\\")) return true;
  if (word[0] == '~')
    return word.size() == 1 || word[1] == '/' ||
           std::isalpha(static_cast<unsigned char>(word[1])) != 0;
  if (word[0] == '/') return word.size() > 1;
  return word.size() > 2 && std::isalpha(static_cast<unsigned char>(word[0])) != 0 &&
         word[1] == ':' && (word[2] == '\\' || word[2] == '/') &&
         !(word.size() > 3 && word[2] == '/' && word[3] == '/');
}

bool holds_path(std::string_view text) {
  constexpr std::string_view kSeparators = " \t\r\n,;=\"'()[]<>|";
  while (!text.empty()) {
    const size_t end = text.find_first_of(kSeparators);
    if (is_absolute(text.substr(0, end))) return true;
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return false;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n' ? ' ' : c;
    }
  }
  return out;
}

std::string script_json(const Json& value) {
  std::string out;
  for (const char c : value.dump(-1, ' ', false, Json::error_handler_t::replace)) {
    switch (c) {
      case '<':
        out += "\\u003c";
        break;
      case '>':
        out += "\\u003e";
        break;
      case '&':
        out += "\\u0026";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Json without_paths(const Json& value) {
  if (value.is_string()) {
    return holds_path(value.get_ref<const std::string&>()) ? Json("(path not shown)") : value;
  }
  Json copy = value;
  if (value.is_structured()) {
    for (auto& [key, item] : copy.items()) item = without_paths(item);
  }
  return copy;
}

}  // namespace espalier::report
