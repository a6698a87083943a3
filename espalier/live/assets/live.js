// Shows a run while it goes: asks /status.json?since=ROUND once a second and lets the curves grow.
(() => {
  "use strict";
  const { root, color, units, element, swatch, tooltip, axis, placeAxis, placeRange } = charts;
  const at = (id) => document.getElementById(id);
  const series = { round: [] };
  const names = { accuracy: "accuracy", loss: "test", train_loss: "training", bytes_down_total: "down", bytes_up_total: "up", wall_seconds: "time" };
  const drawn = [
    { title: "Test accuracy", unit: "fraction", keys: ["accuracy"] },
    { title: "Loss", unit: "number", keys: ["loss", "train_loss"] },
    { title: "Bytes", unit: "bytes", keys: ["bytes_down_total", "bytes_up_total"] },
    { title: "Time", unit: "seconds", keys: ["wall_seconds"] },
  ];
  const widthOf = (box) => Math.max(box.clientWidth - 20, 120);
  const plots = drawn.map((spec) => {
    const box = element("div", at("charts"), "chart");
    const head = element("h3", box, "", spec.title);
    if (spec.keys.length > 1) {
      spec.keys.forEach((key, i) => {
        const name = element("small", head, "line");
        swatch(name, i);
        name.append(names[key]);
      });
    }
    return { spec, box, plot: null, nothing: element("p", box, "hint", "nothing yet") };
  });
  const watcher = new ResizeObserver(() => {
    for (const { plot, box } of plots) if (plot && plot.width !== widthOf(box)) plot.setSize({ width: widthOf(box), height: 220 });
  });

  // Only rounds that have a value: accuracies come when there is an evaluation.
  const columns = (spec) => uPlot.join(spec.keys.map((key) => {
    const out = [[], []];
    series.round.forEach((round, i) => {
      const value = (series[key] ?? [])[i];
      if (value != null) { out[0].push(round); out[1].push(value); }
    });
    return out;
  }));
  const draw = () => {
    for (const one of plots) {
      const data = columns(one.spec);
      if (!data[0].length) continue;
      if (one.plot) { one.plot.setData(data); continue; }
      const lines = one.spec.keys.map((key, i) => ({ label: names[key], stroke: color("s" + i), width: 1.75, spanGaps: true }));
      const shown = { x: "round", unit: one.spec.unit, get series() {
        const now = columns(one.spec);
        return one.spec.keys.map((key, i) => ({ color: i, label: names[key], data: [now[0].filter((_, j) => now[i + 1][j] != null), now[i + 1].filter((v) => v != null)] }));
      } };
      one.plot = new uPlot({
        width: widthOf(one.box), height: 220, padding: [8, 20, 0, 0], legend: { show: false },
        scales: { x: { time: false, range: (plot, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) } },
        axes: [placeAxis("round"), { ...axis(one.spec.unit, 58), space: 34 }],
        cursor: { points: { show: false }, y: false }, series: [{}, ...lines], plugins: [tooltip(shown)],
      }, data, one.box);
      watcher.observe(one.box);
      one.nothing.remove();
      root.dataset.plots = String(+root.dataset.plots + 1);
    }
  };

  const tiles = (status) => {
    const last = status.last, list = [];
    const add = (label, value) => { if (value !== undefined && value !== null) list.push([label, value]); };
    add("accuracy", last.accuracy === undefined ? undefined : units.fraction(last.accuracy));
    add("loss", last.loss === undefined ? undefined : units.number(last.loss));
    add("down", last.bytes_down_total === undefined ? undefined : units.bytes(last.bytes_down_total));
    add("up", last.bytes_up_total === undefined ? undefined : units.bytes(last.bytes_up_total));
    add("last round", last.seconds === undefined ? undefined : units.seconds(last.seconds));
    add("failures", status.clients_failed);
    at("tiles").replaceChildren();
    for (const [label, value] of list) {
      const card = element("div", at("tiles"), "card");
      element("div", card, "label", label);
      element("div", card, "value", String(value));
    }
  };
  const devices = (list) => {
    const box = at("devices");
    box.replaceChildren();
    if (!list.length) return;
    const here = list.filter((one) => one.connected).length;
    element("h2", box, "", `Clients: ${here} of ${list.length} connected`);
    const grid = element("div", box, "device-list");
    for (const one of list.slice(0, 200)) {
      const cell = element("div", grid, "device " + (one.connected ? one.phase : "away"));
      element("b", cell, "", String(one.client));
      cell.append(one.connected ? one.phase : one.enrolled ? "away" : "not joined");
      if (one.detail) { cell.title = one.detail; cell.append(" · " + one.detail); }
    }
    if (list.length > 200) element("p", box, "hint", `and ${list.length - 200} more`);
  };
  const notes = (list) => {
    const box = at("notes");
    box.replaceChildren();
    if (!list.length) return;
    element("h2", box, "", "Notes");
    const items = element("ul", box, "note-list");
    for (const note of list.slice().reverse()) element("li", items, "", note);
  };
  const words = { waiting: "waiting for clients", running: "running", done: "complete", stopped: "stopped", failed: "failed" };
  const headline = (status) => {
    const parts = [`round ${status.round} of ${status.rounds}`, words[status.state] ?? status.state];
    if (status.state === "running" && status.clients_total) parts.push(`${status.clients_done} of ${status.clients_total} clients answered`);
    if (status.seconds_left !== undefined && status.seconds_left > 0) parts.push(units.seconds(status.seconds_left) + " left");
    parts.push(units.seconds(status.elapsed_seconds) + " so far");
    at("now").textContent = parts.join(" · ");
    at("now").className = "now" + (status.state === "failed" ? " gone" : "");
    at("progress").style.width = status.rounds ? (100 * status.round) / status.rounds + "%" : "0";
    document.title = `${status.round}/${status.rounds} · ${status.name}`;
    at("facts").textContent = [status.strategy, status.model, status.data].filter(Boolean).join(" · ");
  };

  // A server that others can reach wants its token, which the address carries behind a #.
  const headers = location.hash.length > 1 ? { Authorization: `Bearer ${location.hash.slice(1)}` } : {};
  let asking = false, over = false;
  const ask = async () => {
    if (asking || over) return;
    asking = true;
    try {
      const since = series.round.at(-1) ?? 0;
      const answer = await fetch(`status.json?since=${since}`, { cache: "no-store", headers });
      if (!answer.ok) {
        at("now").textContent = (await answer.text()).trim() + (answer.status === 401 ? " (open this page as …/#TOKEN)" : "");
        at("now").className = "now gone";
        asking = false;
        return;
      }
      const status = await answer.json();
      for (const [key, values] of Object.entries(status.series)) (series[key] ??= []).push(...values);
      headline(status);
      tiles(status);
      devices(status.devices);
      notes(status.notes);
      draw();
      root.dataset.round = String(status.round);
      over = ["done", "stopped", "failed"].includes(status.state);
    } catch (error) {
      at("now").textContent = "the run does not answer any more; its folder has the report";
      at("now").className = "now gone";
    }
    asking = false;
  };
  ask();
  setInterval(ask, 1000);
})();
