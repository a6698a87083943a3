// Draws the curves of one run or of several from the JSON in #data.
(() => {
  "use strict";
  const { root, color, unitOf, element, swatch, tooltip, axis, placeAxis, placeRange } = charts;
  const runs = JSON.parse(document.getElementById("data").textContent).runs;
  const several = runs.length > 1;
  // A column of one run; bytes down and up together are derived here.
  const column = (run, key) => {
    if (key !== "bytes_total") return run.columns[key];
    const down = run.columns.bytes_down_total, up = run.columns.bytes_up_total;
    if (!down && !up) return undefined;
    return (down || up).map((_, i) => (down?.[i] ?? 0) + (up?.[i] ?? 0));
  };
  // The pairs of a curve, without those that lack either coordinate; x strictly increasing, as uPlot needs.
  const curve = (run, xKey, yKey, log) => {
    const xs = column(run, xKey), ys = column(run, yKey), out = [[], []];
    if (!xs || !ys) return out;
    for (let i = 0; i < xs.length; ++i) {
      const x = xs[i], y = ys[i];
      if (x == null || y == null || (log && x <= 0)) continue;
      if (out[0].length && x <= out[0][out[0].length - 1]) continue;
      out[0].push(x);
      out[1].push(y);
    }
    return out;
  };

  let plots = [];
  const widthOf = (box) => Math.max(box.clientWidth - 20, 120);
  const watcher = new ResizeObserver(() => {
    for (const { plot, box } of plots) {
      if (plot.width !== widthOf(box)) plot.setSize({ width: widthOf(box), height: 215 });
    }
  });
  const draw = (parent, spec, title, detail) => {
    const box = element("div", parent, "chart");
    const heading = element("h3", box, "", title + " ");
    if (detail) element("small", heading, "", detail);
    if (!several && spec.series.length > 1) {
      const keys = element("div", box, "keys");
      for (const series of spec.series) {
        const item = element("span", keys);
        swatch(item, series.color);
        item.append(series.label);
      }
    }
    const joined = uPlot.join(spec.series.map((series) => series.data));
    const few = joined[0].length < 2;
    const plot = new uPlot({
      width: widthOf(box), height: 215, padding: [8, 20, 0, 0], legend: { show: false },
      scales: {
        x: { time: false, distr: spec.log ? 3 : 1, range: placeRange(joined[0], spec.log) },
        // Amounts are compared by their height above zero; losses and accuracies by their differences.
        y: { range: { min: { pad: 0.06, soft: 0, mode: /bytes|seconds/.test(spec.unit) ? 1 : 0 }, max: { pad: 0.06 } } },
      },
      axes: [placeAxis(spec.x, spec.log), { ...axis(spec.unit, 58), space: 34 }],
      cursor: { points: { size: 6 }, y: false },
      series: [{}, ...spec.series.map((series) => ({
        label: series.label, stroke: color("s" + (series.color % 8)), width: 1.75, spanGaps: true,
        dash: series.dash ? [6, 4] : undefined, points: { show: few || undefined, size: few ? 7 : 4 },
      }))],
      plugins: [tooltip(spec)],
    }, joined, box);
    plots.push({ plot, box });
    watcher.observe(box);
  };

  const widthPrefix = "accuracy_at_";
  const labels = {
    accuracy: "Test accuracy", loss: "Test loss", train_loss: "Training loss", train_accuracy: "Training accuracy",
    bytes_down: "down", bytes_up: "up", seconds: "round", train_seconds: "training", eval_seconds: "evaluation",
    simulated_seconds: "all", simulated_down_seconds: "down", simulated_compute_seconds: "compute", simulated_up_seconds: "up",
    client_accuracy: "Clients' own nets, accuracy", server_accuracy_mean: "Server accuracy, mean of clients",
    server_accuracy_min: "Server accuracy, worst client", server_accuracy_max: "Server accuracy, best client",
    server_train_accuracy: "Server training accuracy", server_loss: "Server training loss", server_lr: "Server learning rate",
    server_macs: "Server MACs", server_seconds: "Server time", features_bytes: "Feature maps", features_on_disk_bytes: "Feature maps on disk",
    test_features_bytes: "Feature maps for evaluation", server_test_samples: "Test samples of the round's clients",
    mask_kept: "Share of weights kept", part_parameters: "Parameters of the smaller network", gate_ratio: "Share of salient channels",
    sent_share: "Share of an update that is sent", exploration_epochs: "Epochs of exploration",
    exploration_clients: "Explorers", exploration_bytes_down: "Exploration, down", exploration_bytes_up: "Exploration, up",
    exploration_macs: "Exploration MACs", evaluation_bytes_down: "Evaluation at clients, down",
    evaluation_bytes_up: "Evaluation at clients, up", evaluation_macs: "Evaluation at clients, MACs",
    macs: "Client MACs", lr: "Learning rate", peak_rss_bytes: "Peak memory", clients_selected: "Clients", clients_failed: "Failed clients",
  };
  // Of what has no place of its own; strategies measure what they like.
  const others = { num_never_found: "Classes that are never found", deliveries_refused: "Refused answers" };
  const labelOf = (key) => labels[key] ?? others[key] ?? key[0].toUpperCase() + key.slice(1).replaceAll("_", " ");
  const seriesOf = (keys, xKey, log) => {
    const out = [];
    runs.forEach((run, r) => keys.forEach((key, k) => {
      const data = curve(run, xKey, key, log);
      if (!data[0].length) return;
      // Dashed: a color that is used twice, and the bytes up, which often equal the bytes down.
      const dash = several ? r >= 8 : key === "bytes_up";
      out.push({ data, color: several ? r : k, label: several ? run.name : labelOf(key), dash });
    }));
    return out;
  };
  const chart = (grid, keys, xKey, title, detail, log) => {
    const series = seriesOf(keys, xKey, log);
    if (series.length) draw(grid, { series, x: xKey, unit: unitOf(keys[0]), log }, title, detail);
    return series.length;
  };
  const section = (parent, title) => {
    const box = element("section", parent);
    const heading = element("div", box, "heading");
    element("h2", heading, "", title);
    return { box, heading };
  };

  // Runs that differ much in bytes are told apart only on a logarithmic axis.
  const totals = runs.map((run) => column(run, "bytes_total")?.at(-1)).filter((value) => value > 0);
  let logBytes = several && Math.max(...totals) > 6 * Math.min(...totals);

  const render = () => {
    watcher.disconnect();
    plots.forEach(({ plot }) => plot.destroy());
    plots = [];
    const parent = document.getElementById("charts");
    parent.replaceChildren();
    if (!runs.some((run) => run.columns.round?.length)) {
      element("p", parent, "hint", "No round has been finished yet.");
      return;
    }
    const learning = section(parent, "Learning curves");
    if (totals.length) {
      const label = element("label", learning.heading);
      const box = element("input", label);
      box.type = "checkbox";
      box.checked = logBytes;
      label.append(" logarithmic bytes");
      box.addEventListener("change", () => { logBytes = box.checked; render(); });
    }
    if (several) {
      const names = element("div", learning.box, "runs");
      runs.forEach((run, r) => { const item = element("span", names); swatch(item, r); item.append(run.name); });
    }
    const grid = element("div", learning.box, "grid");
    for (const key of ["accuracy", "loss"]) {
      chart(grid, [key], "round", labels[key], "by round");
      chart(grid, [key], "bytes_total", labels[key], "by bytes, down and up", logBytes);
      chart(grid, [key], "wall_seconds", labels[key], "by time");
      chart(grid, [key], "simulated_seconds_total", labels[key], "by simulated device time");
    }
    element("p", learning.box, "hint", "Drag in a chart to zoom, double-click to reset.");

    const more = section(parent, "More measurements");
    const all = element("div", more.box, "grid");
    const together = (keys, title) => {
      if (!several) return chart(all, keys, "round", title, "per round");
      return keys.forEach((key) => chart(all, [key], "round", `${title}, ${labels[key]}`, "per round"));
    };
    for (const key of ["train_loss", "train_accuracy"]) chart(all, [key], "round", labels[key], "by round");
    together(["bytes_down", "bytes_up"], "Bytes of all clients");
    together(["seconds", "train_seconds", "eval_seconds"], "Time");
    together(["simulated_seconds", "simulated_down_seconds", "simulated_compute_seconds", "simulated_up_seconds"],
      several ? "Simulated time" : "Simulated");
    const widths = [...new Set(runs.flatMap((run) => Object.keys(run.columns)).filter((key) => key.startsWith(widthPrefix)))];
    widths.forEach((key) => { labels[key] = "width " + key.slice(widthPrefix.length); });
    if (!several) chart(all, widths, "round", "Test accuracy of sub-models", "by round");
    else widths.forEach((key) => chart(all, [key], "round", `Test accuracy, ${labels[key]}`, "by round"));
    for (const key of ["macs", "lr", "peak_rss_bytes", "clients_selected"]) chart(all, [key], "round", labels[key], "by round");
    if (runs.some((run) => run.columns.clients_failed?.some((value) => value > 0))) {
      chart(all, ["clients_failed"], "round", labels.clients_failed, "per round");
    }
    // Whatever else a strategy measured.
    const known = new Set(["round", "bytes_down_total", "bytes_up_total", "macs_total", "wall_seconds", "simulated_seconds_total",
      ...Object.keys(labels).filter((key) => !/^server_|^features_|^test_features|^client_accuracy$|^mask_kept$|^part_parameters$|^gate_ratio$|^sent_share$/.test(key))]);
    const extra = new Set(runs.flatMap((run) => Object.keys(run.columns)).filter((key) => !known.has(key)));
    for (const key of extra) chart(all, [key], "round", labelOf(key), "by round");
    if (!all.childElementCount) more.box.remove();
    root.dataset.plots = String(plots.length);
  };

  render();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
})();
