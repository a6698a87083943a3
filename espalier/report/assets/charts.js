// What the pages share: units, marks of axes, small elements and the tooltip. Text only ever enters a page through textContent.
const charts = (() => {
  "use strict";
  const root = document.documentElement;
  root.dataset.plots = "0";
  addEventListener("error", (event) => { root.dataset.error = event.message; });
  const color = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();

  // Units: how a number reads, given the largest one beside it.
  const digits = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
    return String(+value.toPrecision(4));
  };
  const scaled = (names) => (value, largest) => {
    let unit = 0;
    for (let rest = Math.abs(largest ?? value); rest >= 999.5 && unit + 1 < names.length; rest /= 1000) ++unit;
    return +(value / 1000 ** unit).toPrecision(3) + names[unit];
  };
  const units = {
    fraction: (value) => +(value * 100).toFixed(2) + "%",
    bytes: scaled([" B", " KB", " MB", " GB", " TB", " PB"]),
    count: scaled(["", " K", " M", " G", " T", " P"]),
    seconds: (value, largest) => {
      const most = Math.abs(largest ?? value);
      if (most >= 7200) return +(value / 3600).toPrecision(3) + " h";
      if (most >= 180) return +(value / 60).toPrecision(3) + " min";
      return most < 1 ? +(value * 1000).toPrecision(3) + " ms" : +value.toPrecision(3) + " s";
    },
    number: digits,
  };
  const unitOf = (key) => {
    if (/accuracy|_share$|_fraction$/.test(key)) return "fraction";
    if (/bytes/.test(key)) return "bytes";
    if (/seconds(_total)?$/.test(key)) return "seconds";
    if (/macs$|^macs|^clients|^num_|_count$/.test(key)) return "count";
    return "number";
  };

  // Distances of axis marks: whole rounds, and times that are whole in the unit they are shown in.
  const timeSteps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900,
    1800, 3600, 7200, 10800, 21600, 43200, ...[1, 2, 5, 10, 20, 50, 100].map((days) => days * 86400)];
  const wholeSteps = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((first) => first * 10 ** power));

  const element = (tag, parent, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    parent?.append(node);
    return node;
  };
  // Colours repeat after eight: then curves are dashed, and swatches striped as report/page.h has them.
  const swatch = (parent, index) => {
    const tone = `var(--s${index % 8})`;
    element("i", parent, "swatch").style.background = index < 8 ? tone : `repeating-linear-gradient(135deg, ${tone} 0 3px, transparent 3px 5px)`;
  };

  // Beside the cursor: the place on the x axis, and of every curve the nearest measured value.
  const tooltip = (spec) => {
    let tip;
    return {
      hooks: {
        init: (plot) => { tip = element("div", plot.over, "tip"); },
        setCursor: (plot) => {
          const { left, top } = plot.cursor;
          if (left == null || left < 0) { tip.style.display = "none"; return; }
          const at = plot.posToVal(left, "x");
          tip.replaceChildren();
          let place = null;
          const lines = [];
          spec.series.forEach((series, s) => {
            const [xs, ys] = series.data;
            if (!xs.length) return;
            let low = 0, high = xs.length - 1;
            while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] <= at) low = middle; else high = middle; }
            const index = Math.abs(xs[low] - at) <= Math.abs(xs[high] - at) ? low : high;
            // Before its first and after its last point, a run has nothing to say here.
            const inside = at >= xs[0] && at <= xs[xs.length - 1];
            if (!inside && Math.abs(plot.valToPos(xs[index], "x") - left) > 10) return;
            if (place === null || Math.abs(xs[index] - at) < Math.abs(place - at)) place = xs[index];
            lines.push([series.color, series.label, ys[index]]);
          });
          if (place === null) { tip.style.display = "none"; return; }
          element("b", element("div", tip), "", (spec.x === "round" ? "round " : "") + units[spec.x === "round" ? "number" : unitOf(spec.x)](place));
          for (const [index, label, value] of lines) {
            const row = element("div", tip);
            swatch(row, index);
            row.append(`${units[spec.unit](value)}  ${label}`);
          }
          tip.style.display = "block";
          const flip = left > plot.over.clientWidth / 2;
          const wanted = flip ? left - tip.offsetWidth - 12 : left + 12;
          tip.style.left = Math.max(-plot.over.offsetLeft, Math.min(wanted, plot.over.clientWidth + 16 - tip.offsetWidth)) + "px";
          tip.style.top = Math.max(0, Math.min(top + 10, plot.over.clientHeight - tip.offsetHeight)) + "px";
        },
      },
    };
  };

  // An axis in the style of the page; `own` numbers its marks one by one, as on a logarithmic scale.
  const axis = (unit, size, own) => ({
    stroke: color("soft"), font: "11.5px system-ui, sans-serif", size, gap: 4,
    grid: { stroke: color("grid"), width: 1 }, ticks: { stroke: color("line"), width: 1, size: 4 },
    values: (plot, splits) => {
      const largest = Math.max(...splits.map((value) => Math.abs(value ?? 0)));
      return splits.map((value) => (value == null ? null : units[unit](value, own ? value : largest)));
    },
  });
  // Marks of a logarithmic axis: the decades, and 2 and 5 between them when there are few.
  const decades = (plot, index, low, high) => {
    const firsts = high / low > 100 ? [1] : [1, 2, 5], out = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); ++power) {
      for (const first of firsts) {
        const value = first * 10 ** power;
        if (value >= low && value <= high) out.push(value);
      }
    }
    return out;
  };
  // The x axis of a chart over `key`.
  const placeAxis = (key, log) => {
    const unit = key === "round" ? "number" : unitOf(key);
    const place = { ...axis(unit, 30, log), space: key === "round" ? 50 : 64 };
    if (unit === "seconds") place.incrs = timeSteps;
    if (key === "round") place.incrs = wholeSteps;
    if (log) Object.assign(place, { splits: decades, filter: (plot, splits) => splits });
    return place;
  };
  // A little air around a logarithmic curve, rather than whole decades; around a single point, something at all.
  const placeRange = (places, log) => {
    const first = places[0];
    if (places.length < 2) return () => (first > 0 ? [first * 0.5, first * 1.5] : [first - 1, first + 1]);
    return log ? (plot, low, high) => [low * 0.85, high * 1.2] : undefined;
  };

  return { root, color, units, unitOf, element, swatch, tooltip, axis, placeAxis, placeRange };
})();
