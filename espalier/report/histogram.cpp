#include "espalier/report/histogram.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "espalier/base/error.h"
#include "espalier/report/human.h"

namespace espalier::report {

namespace {

constexpr size_t kMaxDrawn = 100;
constexpr size_t kMaxColors = 20;
constexpr double kWidth = 1000, kHeight = 220;

std::string number(double value) {
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.4g", value);
  return buffer.data();
}

// Hues spread over the wheel; lightness alternates so that neighbors differ also without color
// vision.
std::string color(size_t index, size_t count) {
  const double hue = 360.0 * static_cast<double>(index) / static_cast<double>(count) + 150;
  return concat("hsl(", number(hue > 360 ? hue - 360 : hue), " 48% ",
                index % 2 == 0 ? "44%" : "64%", ")");
}

}  // namespace

std::string histogram_html(const ClientHistogram& histogram) {
  const size_t drawn = std::min(histogram.clients.size(), kMaxDrawn);
  const size_t classes = histogram.classes;
  if (drawn == 0 || classes == 0) return "";
  const size_t per_color = (classes + kMaxColors - 1) / kMaxColors;
  const size_t colors = (classes + per_color - 1) / per_color;

  uint64_t most = 1;
  for (size_t i = 0; i < drawn; ++i) {
    uint64_t sum = 0;
    for (const uint64_t count : histogram.clients[i].labels) sum += count;
    most = std::max(most, sum);
  }
  const double step = kWidth / static_cast<double>(drawn);
  const double bar = step * (drawn > 50 ? 0.86 : 0.8);
  const double scale = kHeight / static_cast<double>(most);

  std::string html = concat(
      "<figure class=\"histogram\"><div class=\"bars\"><span class=\"most\">",
      human_count(static_cast<double>(most)), " samples</span><svg viewBox=\"0 0 ", kWidth, " ",
      kHeight,
      "\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Label counts per client\">");
  for (size_t i = 0; i < drawn; ++i) {
    const ClientLabels& client = histogram.clients[i];
    html += concat("<g><title>client ", client.id, ": ", client.samples, " samples</title>");
    double top = kHeight;
    for (size_t k = 0; k < colors; ++k) {
      uint64_t count = 0;
      for (size_t c = k * per_color; c < std::min((k + 1) * per_color, client.labels.size()); ++c)
        count += client.labels[c];
      if (count == 0) continue;
      const double height = static_cast<double>(count) * scale;
      top -= height;
      html +=
          concat("<rect class=\"c", k, "\" x=\"",
                 number(static_cast<double>(i) * step + (step - bar) / 2), "\" y=\"", number(top),
                 "\" width=\"", number(bar), "\" height=\"", number(height), "\"/>");
    }
    html += "</g>";
  }
  html += "</svg></div><style>";
  for (size_t k = 0; k < colors; ++k)
    html += concat(".histogram .c", k, "{fill:", color(k, colors), ";background:", color(k, colors),
                   "}");
  html += "</style><p class=\"legend\">";
  for (size_t k = 0; k < colors; ++k) {
    const size_t first = k * per_color, last = std::min(classes, first + per_color) - 1;
    html += concat("<span><i class=\"c", k, "\"></i>",
                   first == last ? concat(first) : concat(first, "–", last), "</span>");
  }
  html += "</p><figcaption>";
  if (histogram.num_clients > drawn) {
    html += concat("The first ", drawn, " of ", histogram.num_clients, " clients; ");
  } else {
    html += concat(drawn, drawn == 1 ? " client; " : " clients; ");
  }
  html +=
      "a bar is a client, its height the number of training samples, a color a "
      "class.</figcaption></figure>";
  return html;
}

}  // namespace espalier::report
