// Charts by Vega-Lite, drawn as SVG and without `eval`: expressions run in Vega's interpreter.
"use strict";
(() => {
  const config = {
    font: "system-ui, sans-serif", background: null, view: { stroke: null },
    axis: { labelColor: "#57606a", titleColor: "#57606a", titleFontWeight: 400, labelFontSize: 11.5, titleFontSize: 12, gridColor: "#eceef1", domainColor: "#b9c0c8", tickColor: "#b9c0c8" },
    legend: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400, titleColor: "#57606a", labelLimit: 220, symbolSize: 70 },
  };

  const draw = async (element, spec) => {
    const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", config, ...spec };
    const runtime = vega.parse(vegaLite.compile(full).spec, null, { ast: true });
    element.replaceChildren();
    const view = new vega.View(runtime, { expr: vega.expressionInterpreter, renderer: "svg", container: element, hover: true });
    view.tooltip((_, event, item, value) => bench.tooltip(event, value && Object.entries(value)));
    await view.runAsync();
    return view;
  };

  const curves = (element, points, looks, eps, attack) => {
    const rows = points.filter((point) => point.attack === attack);
    const place = Object.keys(looks); // the most robust first, as in the leaderboard
    const rank = (name) => place.findIndex((own) => own === name || `${own} (last)` === name);
    const names = [...new Set(rows.map((row) => row.method))].sort((a, b) => rank(a) - rank(b));
    const look = (name) => looks[name] ?? looks[name.replace(/ \(last\)$/, "")];
    const narrow = element.clientWidth < 640;
    const scale = (key) => ({ domain: names, range: names.map((name) => look(name)[key]) });
    const legend = { title: null, orient: narrow ? "bottom" : "right", columns: narrow ? 2 : 1, symbolStrokeWidth: 2 };
    const chosen = (on, off) => ({ condition: { param: "only", value: on }, value: off });
    const x = { field: "eps", type: "quantitative", title: "radius ε of the attack (pixels in [0, 1])", axis: { grid: false, values: [...new Set(rows.map((row) => row.eps))].sort((a, b) => a - b), format: ".3~f", labelOverlap: true } };
    const y = { field: "accuracy", type: "quantitative", title: "accuracy", scale: { domain: [0, 1] }, axis: { format: ".0%", tickCount: 6 } };
    const colour = { field: "method", type: "nominal", scale: scale("colour"), legend };
    const layer = [
      { params: [{ name: "only", select: { type: "point", fields: ["method"] }, bind: "legend" }], mark: { type: "line", strokeWidth: 2, invalid: "break-paths-show-path-domains" }, encoding: { opacity: chosen(1, 0.1), strokeDash: { field: "method", type: "nominal", scale: scale("dash"), legend } } },
      { mark: { type: "rule", strokeWidth: 1.2, invalid: "filter", aria: false }, encoding: { y: { ...y, field: "low" }, y2: { field: "high" }, opacity: chosen(0.55, 0.05) } },
      {
        mark: { type: "point", filled: true, size: 62, stroke: "white", strokeWidth: 0.8, invalid: "filter" },
        encoding: {
          opacity: chosen(1, 0.1), shape: { field: "method", type: "nominal", scale: scale("shape"), legend },
          tooltip: [
            { field: "method", type: "nominal" }, { field: "radius", title: "ε", type: "nominal" }, { field: "accuracy", type: "quantitative", format: ".1%" },
            { field: "interval", title: "error", type: "nominal" }, { field: "n", title: "images", type: "nominal" },
          ],
        },
      },
    ];
    if (eps > 0 && rows.some((row) => row.eps >= eps)) layer.unshift({ data: { values: [{ eps }] }, mark: { type: "rule", strokeDash: [2, 3], stroke: "#8b949e", aria: false }, encoding: { x, y: { value: 0 }, y2: { value: "height" }, color: { value: "#8b949e" } } });
    return draw(element, {
      description: `Chart: accuracy under ${attack} against the radius, a line per method; the table below has its numbers`,
      data: { values: rows }, width: Math.min(980, element.clientWidth), height: narrow ? 380 : 350, autosize: { type: "fit-x", contains: "padding" }, encoding: { x, y, color: colour }, layer,
    });
  };

  // Draw one chart of some columns of a method's trainings by epoch.
  const history = (box, seeds, columns, title, more = {}) => {
    const rows = seeds.flatMap((one) => columns.flatMap(([part, name, text]) =>
      (one[part][name] ?? []).map((value, i) => ({ epoch: i + 1, value, what: text, seed: one.seed }))));
    if (!rows.some((row) => row.value !== null)) return null;
    const names = columns.map(([, , text]) => text);
    const element = bench.element("div");
    box.append(element);
    return draw(element, {
      description: `Chart: ${title} by epoch`, data: { values: rows }, width: 260, height: 150, title: { text: title, anchor: "start", fontSize: 12, fontWeight: 600 },
      mark: { type: "line", strokeWidth: 1.4, invalid: "break-paths-show-path-domains" },
      encoding: {
        x: { field: "epoch", type: "quantitative", title: "epoch", axis: { grid: false, tickMinStep: 1, tickCount: 5 } },
        y: { field: "value", type: "quantitative", title: null, axis: { tickCount: 4, ...(more.axis ?? {}) }, scale: more.scale ?? { zero: false } },
        detail: { field: "seed", type: "nominal" },
        color: { field: "what", type: "nominal", title: null, scale: { domain: names, range: more.colours ?? ["#1a56a0", "#d98a2b"] }, legend: names.length > 1 ? { orient: "bottom", columns: 3 } : null },
      },
    });
  };

  const blues = ["#c8d9ee", "#8fb3dc", "#1a56a0", "#8fb3dc", "#c8d9ee"];
  const drawHistory = (box, seeds) => {
    box.hidden = false;
    const radii = Object.keys(seeds[0].radii);
    return Promise.all([
      history(box, seeds, [["columns", "loss", "training loss"]], "Training loss"),
      history(box, seeds, [["columns", "val_clean", "clean"], ["columns", "val_robust", "robust"]], "Validation accuracy", { axis: { format: ".0%" }, scale: { domain: [0, 1] }, colours: ["#8b949e", "#1a56a0"] }),
      history(box, seeds, [["columns", "lr", "learning rate"]], "Learning rate", { scale: { zero: true }, colours: ["#8b949e"] }),
      radii.length ? history(box, seeds, radii.slice(0, 5).map((name) => ["radii", name, name]), "Per-image lengths / ε: quantiles", { colours: blues, scale: { zero: true } }) : null,
    ]);
  };

  bench.forEachSetting(async (root, data, blocks) => {
    for (const fold of blocks.flatMap((block) => [...block.querySelectorAll("[data-run]")])) {
      const seeds = data.histories[fold.dataset.run];
      if (!seeds?.length) continue;
      const once = () => fold.open && !fold.drawn && (fold.drawn = drawHistory(fold.querySelector("[data-history]"), seeds));
      fold.addEventListener("toggle", once);
    }
    const element = root.querySelector("[data-curves]");
    if (!element) return;
    const select = root.querySelector("[data-attack]");
    root.querySelector("[data-curve-tools]").hidden = select.options.length < 2;
    const show = async () => { root.curves = await curves(element, data.curves, data.looks, data.eps, select.value); };
    select.addEventListener("change", show);
    let width = element.clientWidth;
    const fit = () => { // nothing has a width while another setting is shown
      if (element.clientWidth && Math.abs(element.clientWidth - width) > 40) { width = element.clientWidth; show(); }
    };
    addEventListener("resize", fit);
    root.addEventListener("chosen", fit);
    await show();
  });
})();
