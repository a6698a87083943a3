#include "espalier/report/page.h"

#include "espalier/base/version.h"
#include "espalier/report/assets.h"
#include "espalier/report/escape.h"

namespace espalier::report {

std::string page(const Page& page) {
  const std::string title = html_escape(page.title);
  return concat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
      "<meta name=\"color-scheme\" content=\"light dark\"><title>",
      title, " · Espalier</title>\n<style>", assets::kUplotStyle, "\n", assets::kReportStyle,
      page.style,
      "</style></head>\n<body><main>\n<header>"
      "<svg class=\"mark\" viewBox=\"0 0 32 32\" aria-hidden=\"true\"><path d=\"M16 30V4M4 10c0 5 "
      "4 6 12 6s12-1 12-6"
      "M4 18c0 5 4 6 12 6s12-1 12-6\"/><circle cx=\"4\" cy=\"8\" r=\"2.4\"/><circle cx=\"28\" "
      "cy=\"8\" r=\"2.4\"/>"
      "<circle cx=\"16\" cy=\"4\" r=\"2.4\"/></svg><div><p class=\"product\">Espalier ",
      version(), " ", page.kind, "</p><h1>", title, "</h1>", page.subtitle, "</div></header>\n",
      page.body, "\n<footer>", page.footer, " Made by Espalier ", version(),
      "; charts by uPlot (MIT).</footer></main>\n<script type=\"application/json\" id=\"data\">",
      script_json(page.data), "</script>\n<script>/*\n", assets::kUplotLicense, "\n*/\n",
      assets::kUplotScript, "</script>\n<script>", assets::kChartsScript, page.script,
      "</script></body></html>\n");
}

std::string swatch_background(size_t index) {
  const std::string tone = concat("var(--s", index % 8, ")");
  if (index < 8) return tone;
  return concat("repeating-linear-gradient(135deg, ", tone, " 0 3px, transparent 3px 5px)");
}

std::string swatch(size_t index) {
  return concat("<i class=\"swatch\" style=\"background:", swatch_background(index), "\"></i>");
}

}  // namespace espalier::report
