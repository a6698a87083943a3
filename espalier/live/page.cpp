#include "espalier/live/page.h"

#include "espalier/live/page_assets.h"
#include "espalier/report/page.h"

namespace espalier::live {

std::string live_page(const std::string& title) {
  report::Page page;
  page.title = title;
  page.kind = "live";
  page.subtitle = "<p class=\"facts\" id=\"facts\"></p>";
  page.body =
      "<div class=\"bar-of-rounds\"><i id=\"progress\"></i></div>"
      "<p class=\"now\" id=\"now\">waiting for the first figures …</p>"
      "<section class=\"cards\" id=\"tiles\"></section>"
      "<section class=\"grid\" id=\"charts\"></section>"
      "<section id=\"devices\"></section><section id=\"notes\"></section>";
  page.data = Json::object();
  page.style = assets::kLiveStyle;
  page.script = assets::kLiveScript;
  return report::page(page);
}

}  // namespace espalier::live
