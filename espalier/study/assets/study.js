// Draws a study from the JSON in #data: curves with a band of one standard deviation, and every variant as a point of accuracy against bytes.
(() => {
  "use strict";
  const { root, color, element, swatch, tooltip, axis, placeAxis, placeRange } = charts;
  const { variants, front } = JSON.parse(document.getElementById("data").textContent);
  const shown = variants.map((variant, v) => ({ ...variant, v })).filter((variant) => variant.curve.round.length);

  // Variants that differ much in bytes are told apart only on a logarithmic axis.
  const totals = shown.map((variant) => variant.bytes).filter((value) => value > 0);
  let logBytes = totals.length > 1 && Math.max(...totals) > 6 * Math.min(...totals);
  let bands = shown.length <= 8;

  let plots = [];
  const widthOf = (box) => Math.max(box.clientWidth - 20, 120);
  const watcher = new ResizeObserver(() => {
    for (const { plot, box, height } of plots) {
      if (plot.width !== widthOf(box)) plot.setSize({ width: widthOf(box), height });
    }
  });
  const stroke = (v) => color("s" + (v % 8));
  const add = (box, height, options, data) => {
    const plot = new uPlot({ width: widthOf(box), height, padding: [8, 20, 0, 0], legend: { show: false }, ...options }, data, box);
    plots.push({ plot, box, height });
    watcher.observe(box);
  };
  const chartBox = (parent, title, detail, className) => {
    const box = element("div", parent, "chart " + (className ?? ""));
    element("small", element("h3", box, "", title + " "), "", detail);
    return box;
  };
  const accuracyScale = { range: { min: { pad: 0.06, soft: 0, mode: 0 }, max: { pad: 0.06 } } };

  // x strictly increasing, as uPlot needs; on a logarithmic axis above zero.
  const columns = (variant, key, log) => {
    const out = [[], [], [], []];
    variant.curve[key].forEach((x, i) => {
      const y = variant.curve.accuracy[i], sd = variant.curve.sd[i];
      if ((log && x <= 0) || (out[0].length && x <= out[0].at(-1))) return;
      [x, y, y + sd, y - sd].forEach((value, c) => out[c].push(value));
    });
    return out;
  };
  const curves = (parent, key, detail, log) => {
    const box = chartBox(parent, "Test accuracy", detail);
    const tables = shown.map((variant) => columns(variant, key, log));
    const series = [{}], between = [];
    shown.forEach((variant) => {
      const at = series.length, line = { label: variant.name, spanGaps: true };
      series.push({ ...line, stroke: stroke(variant.v), width: 1.75, dash: variant.v >= 8 ? [6, 4] : undefined, points: { show: tables[0][0].length < 2 || undefined } });
      for (let i = 0; i < 2; ++i) series.push({ ...line, stroke: "transparent", width: 0, points: { show: false } });
      if (bands) between.push({ series: [at + 1, at + 2], fill: stroke(variant.v) + "26" });
    });
    const joined = uPlot.join(tables);
    // Without bands their edges must not stretch the axis.
    const data = bands ? joined : joined.map((column, c) => (c === 0 || c % 3 === 1 ? column : column.map(() => null)));
    add(box, 300, {
      scales: { x: { time: false, distr: log ? 3 : 1, range: placeRange(joined[0], log) }, y: accuracyScale },
      axes: [placeAxis(key === "bytes" ? "bytes_total" : key, log), { ...axis("fraction", 58), space: 34 }],
      cursor: { points: { show: false }, y: false }, series, bands: between,
      plugins: [tooltip({ x: key === "bytes" ? "bytes_total" : key, unit: "fraction",
        series: shown.map((variant, i) => ({ data: tables[i], color: variant.v, label: variant.name })) })],
    }, data);
  };

  // One column per variant, so that each point has its own color; whiskers are one standard deviation long. The front is a staircase: what
  // that many bytes can buy.
  const pareto = (parent, log) => {
    const points = shown.filter((variant) => variant.bytes != null && (!log || variant.bytes > 0)).sort((a, b) => a.bytes - b.bytes);
    if (!points.length) return;
    const box = chartBox(parent, "Accuracy against bytes", "of whole runs, down and up; whiskers: one standard deviation; line: the Pareto front", "whole");
    const steps = front.map((v) => variants[v]).filter((variant) => !log || variant.bytes > 0);
    const tables = points.map((variant) => [[variant.bytes], [variant.accuracy]]);
    const stairs = [[], []];
    steps.forEach((variant) => { if (variant.bytes > (stairs[0].at(-1) ?? -1)) { stairs[0].push(variant.bytes); stairs[1].push(variant.accuracy); } });
    const joined = uPlot.join([stairs, ...tables]);
    const low = Math.min(...points.map((variant) => variant.accuracy - variant.sd)), high = Math.max(...points.map((variant) => variant.accuracy + variant.sd));
    const air = Math.max((high - low) * 0.12, 0.002);
    const most = points.at(-1).bytes, least = points[0].bytes;
    const width = log ? [least * 0.7, most * 1.6] : [0, most * 1.15];
    add(box, 340, {
      scales: { x: { time: false, distr: log ? 3 : 1, range: () => width }, y: { range: () => [low - air, high + air] } },
      axes: [placeAxis("bytes_total", log), { ...axis("fraction", 58), space: 34 }],
      cursor: { points: { show: false }, y: false },
      series: [{}, { stroke: color("soft"), width: 1.25, dash: [5, 4], spanGaps: true, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } },
        ...points.map((variant) => ({ stroke: stroke(variant.v), paths: () => null,
          points: { show: true, size: 10, fill: variant.v >= 8 ? color("panel") : stroke(variant.v), stroke: stroke(variant.v), width: 2 } }))],
      hooks: { draw: [(plot) => {
        const { ctx } = plot, scale = devicePixelRatio;
        ctx.save();
        ctx.textAlign = "left";
        ctx.font = `${12 * scale}px system-ui, sans-serif`;
        const used = [];
        for (const variant of points) {
          const x = plot.valToPos(variant.bytes, "x", true), y = plot.valToPos(variant.accuracy, "y", true);
          ctx.strokeStyle = stroke(variant.v);
          ctx.lineWidth = 1.5 * scale;
          ctx.beginPath();
          ctx.moveTo(x, plot.valToPos(variant.accuracy + variant.sd, "y", true));
          ctx.lineTo(x, plot.valToPos(variant.accuracy - variant.sd, "y", true));
          ctx.stroke();
          // Beside its point, to the left where the page ends, one line further down where another name stands.
          const wide = ctx.measureText(variant.name).width, line = 15 * scale, gap = 9 * scale;
          const left = x + gap + wide > plot.bbox.left + plot.bbox.width ? x - gap - wide : x + gap;
          const clash = (top) => used.some((box) => left < box.right && left + wide > box.left && Math.abs(top - box.top) < line);
          let top = y;
          for (let step = 1; step < 12 && (clash(top) || top > plot.bbox.top + plot.bbox.height - 4 * scale); ++step)
            top = y + (step % 2 ? -1 : 1) * Math.ceil(step / 2) * line;
          used.push({ left, right: left + wide, top });
          ctx.fillStyle = color("ink");
          ctx.textBaseline = "middle";
          ctx.fillText(variant.name, left, top);
        }
        ctx.restore();
      }] },
    }, joined);
  };

  const render = () => {
    watcher.disconnect();
    plots.forEach(({ plot }) => plot.destroy());
    plots = [];
    const parent = document.getElementById("charts");
    parent.replaceChildren();
    if (!shown.length) {
      element("p", parent, "hint", "No run of this study has been finished yet.");
      return;
    }
    const section = element("section", parent), heading = element("div", section, "heading");
    element("h2", heading, "", "Curves and costs");
    const choices = element("div", heading);
    const choice = (text, value, change) => {
      const label = element("label", choices), box = element("input", label);
      box.type = "checkbox";
      box.checked = value;
      label.append(" " + text + " ");
      box.addEventListener("change", () => { change(box.checked); render(); });
    };
    choice("bands", bands, (value) => { bands = value; });
    choice("logarithmic bytes", logBytes, (value) => { logBytes = value; });
    const names = element("div", section, "runs");
    shown.forEach((variant) => { const item = element("span", names); swatch(item, variant.v); item.append(variant.name); });
    const grid = element("div", section, "grid wide");
    curves(grid, "round", "by round; mean over seeds, band: one standard deviation", false);
    curves(grid, "bytes", "by bytes, down and up", logBytes);
    pareto(grid, logBytes);
    element("p", section, "hint", "Drag in a chart to zoom, double-click to reset.");
    root.dataset.plots = String(plots.length);
  };

  render();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
})();
