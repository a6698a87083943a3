#include "espalier/report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/base/file.h"
#include "espalier/report/assets.h"
#include "espalier/report/escape.h"
#include "espalier/report/histogram.h"
#include "espalier/report/test_run.h"

namespace espalier::report {
namespace {

using testing::HasSubstr;
using testing::Not;

size_t count_of(const std::string& text, std::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size()))
    ++count;
  return count;
}

// The JSON that a page carries, as a browser would read it: up to the first "</script".
Json data_of(const std::string& html) {
  const std::string open = "id=\"data\">";
  const size_t begin = html.find(open) + open.size();
  return Json::parse(html.substr(begin, html.find("</script", begin) - begin));
}

TEST(Escape, Html) {
  EXPECT_EQ(html_escape("<b a='1' c=\"2\">&\x01</b>"),
            "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp; &lt;/b&gt;");
}

TEST(Escape, ScriptJsonCannotEndTheScriptAndReadsBack) {
  const Json value{{"</script><script>alert(1)</script>", "<!-- & -->"}};
  const std::string text = script_json(value);
  EXPECT_THAT(text, Not(HasSubstr("<")));
  EXPECT_EQ(Json::parse(text), value);
  EXPECT_NO_THROW(Json::parse(script_json({{"name", "\xff\xfe"}})));
}

TEST(Escape, AbsolutePathsAreNotShown) {
  const Json value{{"a", "/home/me/data"},
                   {"b", "~/x"},
                   {"c", "C:\\data"},
                   {"d", {"ok", "see /etc/x", "file:///x"}},
                   {"e", "runs/a"},
                   {"f", "1/2 of it"},
                   {"g", "https://example.org/a"},
                   {"h", "~"},
                   {"i", "root=/srv/x"}};
  const std::string hidden = "(path not shown)";
  EXPECT_EQ(without_paths(value), (Json{{"a", hidden},
                                        {"b", hidden},
                                        {"c", hidden},
                                        {"d", {"ok", hidden, hidden}},
                                        {"e", "runs/a"},
                                        {"f", "1/2 of it"},
                                        {"g", "https://example.org/a"},
                                        {"h", hidden},
                                        {"i", hidden}}));
}

TEST(Html, OneRunHasItsFiguresCurvesLabelsAndConfiguration) {
  const TemporaryFolder base;
  write_test_run(base.path() / "my run", {.rounds = 30, .up_ratio = 0.25});
  const std::string html = render_html(load_runs({base.path() / "my run"}));
  EXPECT_THAT(html, HasSubstr("<h1>my run</h1>"));
  EXPECT_THAT(html, HasSubstr("6.65 MB"));
  EXPECT_THAT(html, HasSubstr("4× less than fp32"));
  EXPECT_THAT(html, HasSubstr("clients_per_round = 10"));
  EXPECT_EQ(count_of(html, "<title>client "), 100u);
  EXPECT_THAT(html, HasSubstr(std::string(assets::kUplotScript.substr(0, 40))));
  EXPECT_THAT(html, HasSubstr("Permission is hereby granted")) << "uPlot's licence travels with it";
  EXPECT_THAT(html, Not(HasSubstr("/home/somebody")));
  EXPECT_THAT(html, Not(HasSubstr(base.path().string())));
  for (const char* loader : {" src=", "<link", "@import", "url("})
    EXPECT_THAT(html, Not(HasSubstr(loader)));

  const Json columns = data_of(html)["runs"][0]["columns"];
  EXPECT_EQ(columns["round"].size(), 30u);
  EXPECT_EQ(columns["round"][29], 30.0);
  EXPECT_TRUE(columns.contains("update_norm")) << "a field that only a strategy knows";
}

TEST(Html, HostileNamesStayText) {
  const TemporaryFolder base;
  const std::string attack = "<script>alert(1)<!-- \" onload='x'";
  RunFolder folder = RunFolder::create(base.path() / attack);
  folder.write_config("[strategy]\nname = '''</script><img onerror=alert(1)>'''\n\"<b>\" = 1\n");
  folder.append_metrics({{"round", 1}, {"accuracy", 0.5}, {"</script><script>alert(2)", 3}});
  folder.write_summary({{"strategy", "</script><img onerror=alert(3)>"},
                        {"model", "/home/me/model.pt"},
                        {"seed", "<i>"}});
  const std::string one = render_html(load_runs({folder.path()}));
  const std::string two = render_html(load_runs({folder.path(), folder.path()}));
  for (const std::string& html : {one, two}) {
    EXPECT_EQ(count_of(html, "<script"), 3u) << "data, uPlot, ours";
    EXPECT_EQ(count_of(html, "</script"), 3u);
    for (const char* part : {"<img", "<b>\" =", "<i>", "/home/me"})
      EXPECT_THAT(html, Not(HasSubstr(part)));
    EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)&lt;!-- &quot; onload=&#39;x&#39;"));
    EXPECT_TRUE(data_of(html)["runs"][0]["columns"].contains("</script><script>alert(2)"));
  }
}

TEST(Html, SeveralRunsAreATableWithTheBestMarkedAndTheDifferences) {
  const TemporaryFolder base;
  write_test_run(base.path() / "a", {.rounds = 5});
  write_test_run(base.path() / "b", {.strategy = "fedprox", .rounds = 5, .up_ratio = 0.1});
  const std::string html = render_html(load_runs({base.path() / "a", base.path() / "b"}));
  EXPECT_THAT(html, HasSubstr("Comparison of 2 runs"));
  EXPECT_THAT(html, HasSubstr("<td class=\"best\">665 KB</td>"));
  EXPECT_THAT(html, HasSubstr("<th>strategy.name</th><td>fedavg</td><td>fedprox</td>"));
  EXPECT_THAT(html, Not(HasSubstr("<th>data.name</th>"))) << "the same in both";
  EXPECT_EQ(data_of(html)["runs"].size(), 2u);
}

TEST(Html, LongRunsAreThinnedAndKeepTheirEndsAndEvaluations) {
  const TemporaryFolder base;
  write_test_run(base.path() / "long", {.rounds = 5000, .evaluate_every = 7});
  const Json columns =
      data_of(render_html(load_runs({base.path() / "long"})))["runs"][0]["columns"];
  EXPECT_LE(columns["round"].size(), 1000u);
  EXPECT_EQ(columns["round"].front(), 1.0);
  EXPECT_EQ(columns["round"].back(), 5000.0);
  size_t evaluated = 0;
  for (const Json& value : columns["accuracy"]) evaluated += value.is_number() ? 1 : 0;
  EXPECT_GT(evaluated, 650u)
      << "714 rounds were evaluated; plain thinning would keep a seventh of the points";
}

TEST(Html, ARunWithoutRoundsRenders) {
  const TemporaryFolder base;
  const RunFolder folder = RunFolder::create(base.path() / "new");
  folder.write_config("seed = 1\n");
  EXPECT_THAT(render_html(load_runs({folder.path()})), HasSubstr("unfinished"));
}

TEST(Histogram, BarsAreAsHighAsTheirSamplesAndManyClassesShareColors) {
  const std::string html = histogram_html({2, 2, {{0, 10, {10, 0}}, {1, 20, {5, 15}}}});
  EXPECT_EQ(count_of(html, "<rect"), 3u) << "empty classes are not drawn";
  EXPECT_THAT(html, HasSubstr("y=\"110\" width=\"400\" height=\"110\""));
  EXPECT_THAT(html, HasSubstr("y=\"0\" width=\"400\" height=\"165\""));

  ClientHistogram many{100, 5000, {}};
  for (uint64_t id = 0; id < 150; ++id)
    many.clients.push_back({id, 100, std::vector<uint64_t>(100, 1)});
  const std::string drawn = histogram_html(many);
  EXPECT_EQ(count_of(drawn, "<rect"), 100u * 20u);
  EXPECT_THAT(drawn, HasSubstr("95–99"));
  EXPECT_THAT(drawn, HasSubstr("The first 100 of 5000 clients"));
  EXPECT_EQ(histogram_html({}), "");
}

}  // namespace
}  // namespace espalier::report
