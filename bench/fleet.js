// Draws a fleet's day from the JSON in #data.
(() => {
  "use strict";
  const { root, color, element, swatch, tooltip, axis, placeAxis } = charts;
  const { minutes, rounds, updates } = JSON.parse(document.getElementById("data").textContent);
  const parent = document.getElementById("charts");
  const plots = [];
  const widthOf = (box) => Math.max(box.clientWidth - 20, 120);
  const watcher = new ResizeObserver(() => {
    for (const { plot, box } of plots) if (plot.width !== widthOf(box)) plot.setSize({ width: widthOf(box), height: plot.height });
  });
  // Curves over one x; each is [label, values, filled?].
  const chart = (title, detail, xs, curves, { x = "time_seconds", unit = "count", points = false } = {}) => {
    const box = element("div", parent, "chart");
    element("small", element("h3", box, "", title + " "), "", detail);
    if (curves.length > 1) {
      const keys = element("div", box, "keys");
      curves.forEach(([label], c) => { swatch(element("span", keys, "", ""), c); keys.lastChild.append(label); });
    }
    const whole = x === "updates";
    const place = whole ? { ...axis("number", 30), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] } : placeAxis(x);
    const value = { ...axis(unit, 58), space: 34, ...(unit === "seconds" ? { incrs: [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400] } : {}) };
    const plot = new uPlot({
      width: widthOf(box), height: 240, padding: [8, 20, 0, 0], legend: { show: false },
      scales: { x: { time: false, range: whole ? (plot, low, high) => [low - 0.5, high + 0.5] : undefined }, y: { range: { min: { pad: 0, soft: 0, mode: 1 }, max: { pad: 0.08, soft: 0, mode: 1 } } } },
      axes: [place, value],
      cursor: { points: { show: false }, y: false },
      series: [{}, ...curves.map(([label, , fill], c) => ({
        label, stroke: points ? undefined : color("s" + c), width: 1.25, fill: fill ? color("s" + c) + "26" : undefined,
        paths: points === "bars" ? uPlot.paths.bars({ size: [0.7, 60] }) : points ? () => null : undefined,
        points: points === true ? { show: true, size: 3, width: 0, fill: color("s" + c) } : { show: false },
        ...(points === "bars" ? { stroke: color("s" + c), fill: color("s" + c) + "80" } : {}),
      }))],
      plugins: [tooltip({ x, unit, series: curves.map(([label, ys], color) => ({ label, color, data: [xs, ys] })) })],
    }, [xs, ...curves.map(([, ys]) => ys)], box);
    plots.push({ plot, box });
    watcher.observe(box);
  };
  const times = minutes.checkins.map((_, m) => 60 * (m + 1));
  const tries = minutes.unanswered.some((value) => value > 0) ? [["unanswered", minutes.unanswered]] : [];
  chart("Check-ins per second", "means of a minute", times, [["all", minutes.checkins, true], ["sent away at once", minutes.sent_away], ...tries]);
  chart("Devices", "that may work, and as the server measures them", times, [["may work", minutes.eligible, true], ["measured", minutes.active]]);
  if (rounds.at.length) chart("Rounds", "seconds, each by its opening", rounds.at, [["waits for devices", rounds.waiting], ["works", rounds.working]], { points: true, unit: "seconds" });
  chart("On the line", "devices that wait for the next round", times, [["waiting", minutes.waiting, true]]);
  chart("Devices by the updates that they gave", "", updates.map((_, u) => u), [["share of devices", updates]], { x: "updates", unit: "fraction", points: "bars" });
  root.dataset.plots = String(plots.length);
})();
