// The matrix of images and methods on a canvas: which attack broke which image.
"use strict";
(() => {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--fate-${name}`).trim();

  // Return the fate of every image for one seed of one method: a place in `images.fates`, or -1.
  // The first attack in order that breaks the image decides, as in survivors.py; without the
  // outcome of an attack that the worst case joins, an image that nothing breaks is unknown.
  const fatesOf = (images, seed) => {
    const { n, fates, joined } = images;
    const found = new Int8Array(n).fill(fates.length - 1);
    const mark = (part, choose) => {
      const right = part && bench.bits(part.right, n), known = part?.known && bench.bits(part.known, n);
      for (let i = 0; i < n; i++) found[i] = choose(part && (!known || known[i]), right?.[i], found[i]);
    };
    const unknown = (known, _, fate) => (known ? fate : -1);
    const broken = (place) => (known, right, fate) => (known && !right ? place : fate);
    for (const part of seed.attacks.slice(0, joined)) mark(part, unknown);
    for (let a = seed.attacks.length - 1; a >= 0; a--) mark(seed.attacks[a], broken(a < joined ? a + 1 : fates.length - 2));
    mark(seed.clean, broken(0));
    mark(seed.clean, unknown);
    return found;
  };

  const thumbnail = (images, i) => {
    const shot = images.thumbnails;
    if (!shot || i >= shot.n) return null;
    const [height, width, channels] = shot.shape, size = height * width * channels;
    shot.bytes ??= atob(shot.pixels);
    const canvas = bench.element("canvas", "", { role: "img", "aria-label": `test image ${idOf(images, i)}` });
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    for (let p = 0; p < height * width; p++) {
      for (let c = 0; c < 3; c++) image.data[4 * p + c] = (255 / shot.white) * shot.bytes.charCodeAt(i * size + p * channels + (channels === 1 ? 0 : c));
      image.data[4 * p + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  };
  // Return the text, cut to a width on the canvas.
  const cut = (context, text, width) => {
    if (context.measureText(text).width <= width) return text;
    let length = text.length;
    while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length--;
    return `${text.slice(0, length)}…`;
  };
  const idOf = (images, i) => (images.index ? images.index[i] : i);
  bench.images = { fatesOf, thumbnail, idOf };

  bench.forEachSetting((root, { images }) => {
    const box = root.querySelector("[data-images]");
    if (!box || !images.n) return;
    box.hidden = false;
    const at = (name) => box.querySelector(`[data-${name}]`);
    const canvas = at("canvas"), last = images.fates.length - 1;
    const colours = images.inks.map(colour);
    const seedNames = [...new Set(images.methods.flatMap((method) => method.seeds.map((seed) => seed.seed)))];
    bench.options(at("seed"), seedNames);
    bench.options(at("right"), ["any method", ...images.methods.map((method) => method.name)]);
    bench.options(at("wrong"), ["any method", ...images.methods.map((method) => method.name)]);
    at("seed").parentElement.hidden = seedNames.length < 2;
    let rows, order, cursor = { row: 0, column: 0 }, size;

    const load = () => {
      const name = seedNames[at("seed").value];
      rows = images.methods.map((method) => {
        const seed = method.seeds.find((one) => one.seed === name) ?? (method.seeds.length === 1 ? method.seeds[0] : null);
        return { method, seed, fates: seed && fatesOf(images, seed) };
      });
      select();
    };

    // Keep the images that A gets right and B wrong, the hardest last.
    const select = () => {
      const [right, wrong] = [at("right").value - 1, at("wrong").value - 1].map((i) => rows[i]);
      const kept = (i) => (!right || right.fates?.[i] === last) && (!wrong || (wrong.fates && wrong.fates[i] !== last && wrong.fates[i] >= 0));
      const ease = new Int32Array(images.n);
      for (const { fates } of rows) if (fates) fates.forEach((fate, i) => { ease[i] += fate; });
      order = [...ease.keys()].filter(kept).sort((a, b) => ease[b] - ease[a] || a - b);
      cursor = { row: 0, column: 0 };
      at("count").textContent = `${order.length} of ${images.n} images${right || wrong ? ` (${right ? `${right.method.name} right` : ""}${right && wrong ? ", " : ""}${wrong ? `${wrong.method.name} wrong` : ""})` : ""}, from easy to hard. Select a column to see the image.`;
      at("image").replaceChildren();
      draw();
    };

    const draw = () => {
      const width = canvas.parentElement.clientWidth, ratio = devicePixelRatio || 1;
      const label = width < 560 ? 84 : 150, height = images.methods.length > 20 ? 14 : 22;
      size = { label, cell: (width - label) / Math.max(1, order.length), height, width };
      canvas.width = width * ratio;
      canvas.height = (height * rows.length + 2) * ratio;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height * rows.length + 2}px`;
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      context.font = "12.5px system-ui, sans-serif";
      context.textBaseline = "middle";
      const gap = size.cell > 4 ? 1 : 0;
      rows.forEach(({ method, fates }, row) => {
        const y = row * height + 1;
        context.fillStyle = "#1b1f24";
        context.fillText(cut(context, method.name, label - 8), 0, y + height / 2);
        if (!fates) return;
        order.forEach((image, column) => {
          if (fates[image] < 0) return;
          context.fillStyle = colours[fates[image]];
          context.fillRect(label + column * size.cell, y, Math.max(size.cell - gap, 0.6), height - 2);
        });
      });
      if (document.activeElement === canvas) {
        context.strokeStyle = "#1b1f24";
        context.lineWidth = 2;
        context.strokeRect(label + cursor.column * size.cell - 1, cursor.row * height, size.cell + 2, height);
      }
    };

    const lines = (row, column) => {
      const { method, fates } = rows[row], image = order[column];
      const label = images.labels ? [["class", images.labels[image]]] : [];
      return [["method", method.name], ["image", idOf(images, image)], ...label, ["outcome", !fates || fates[image] < 0 ? "not on record" : images.fates[fates[image]]]];
    };

    // Show one image and what every attack did to it.
    const show = (image) => {
      const table = bench.element("table", "", { class: "plain" }), head = table.createTHead().insertRow();
      for (const text of ["Method", "Clean", ...images.attacks]) head.append(bench.element("th", text, { scope: "col" }));
      const body = table.createTBody();
      for (const { method, seed } of rows) {
        const line = body.insertRow();
        line.append(bench.element("th", method.name, { scope: "row" }));
        for (const part of seed ? [seed.clean, ...seed.attacks] : []) {
          const known = part && (!part.known || bench.bits(part.known, images.n)[image]);
          line.append(bench.element("td", known ? (bench.bits(part.right, images.n)[image] ? "✓" : "✗") : "–"));
        }
      }
      const title = bench.element("p", `Test image ${idOf(images, image)}${images.labels ? `, class ${images.labels[image]}` : ""}`, { class: "caption", "data-shown": idOf(images, image) });
      const figure = bench.element("div"), picture = thumbnail(images, image), scroll = bench.element("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Outcomes of the image" });
      figure.append(title, ...(picture ? [picture] : []));
      scroll.append(table);
      at("image").replaceChildren(figure, scroll);
    };

    const place = (event) => {
      const bounds = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - bounds.left - size.label) / size.cell), row = Math.floor((event.clientY - bounds.top) / size.height);
      return column >= 0 && column < order.length && row >= 0 && row < rows.length ? { row, column } : null;
    };
    canvas.addEventListener("pointermove", (event) => {
      const found = place(event);
      bench.tooltip(event, found && lines(found.row, found.column));
    });
    canvas.addEventListener("pointerleave", (event) => bench.tooltip(event, null));
    canvas.addEventListener("click", (event) => {
      const found = place(event);
      if (found) { cursor = found; show(order[found.column]); draw(); }
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -images.n], End: [0, images.n] }[event.key];
      if (event.key === "Enter" && order.length) show(order[cursor.column]);
      if (!step || !order.length) return;
      event.preventDefault();
      cursor.row = Math.max(0, Math.min(rows.length - 1, cursor.row + step[0]));
      cursor.column = Math.max(0, Math.min(order.length - 1, cursor.column + step[1]));
      at("count").textContent = lines(cursor.row, cursor.column).map(([term, text]) => `${term} ${text}`).join(", ");
      draw();
    });
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, draw);
    addEventListener("resize", draw);
    at("seed").addEventListener("change", load);
    for (const name of ["right", "wrong"]) at(name).addEventListener("change", select);
    root.matrix = { counts: () => rows.map(({ method, fates }) => [method.name, images.fates.map((_, i) => (fates ? fates.filter((fate) => fate === i).length : null))]), order: () => order.map((i) => idOf(images, i)), show, place: (column) => ({ x: size.label + (column + 0.5) * size.cell, y: size.height / 2 }) };
    root.addEventListener("chosen", draw);
    load();
  });
})();
