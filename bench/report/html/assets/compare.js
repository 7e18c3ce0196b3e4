// Two methods next to each other: the numbers of comparisons.csv, and the images they differ on.
"use strict";
(() => {
  const MOST = 60; // images that are listed of each kind

  // Count the images by which of the two gets them right under the pair's attacks, for one seed.
  const split = (images, pair, seedName) => {
    const sides = [pair.first, pair.second].map((name) => images.methods?.find((method) => method.name === name));
    const seeds = sides.map((method) => method?.seeds.find((seed) => seed.seed === seedName) ?? (method?.seeds.length === 1 ? method.seeds[0] : null));
    const places = pair.attacks.map((attack) => images.attacks?.indexOf(attack));
    const clean = pair.attacks.length === 1 && pair.attacks[0] === "Clean";
    if (seeds.includes(null) || seeds.includes(undefined) || (!clean && places.includes(-1))) return null;
    const kinds = { both: [], first: [], second: [], neither: [] };
    const parts = seeds.map((seed) => (clean ? [seed.clean] : [seed.clean, ...places.map((a) => seed.attacks[a])]));
    if (parts.flat().some((part) => !part)) return null;
    const right = parts.map((own) => own.map((part) => bench.bits(part.right, images.n)));
    const known = parts.flat().filter((part) => part.known).map((part) => bench.bits(part.known, images.n));
    for (let i = 0; i < images.n; i++) {
      if (known.some((bits) => !bits[i])) continue;
      const [a, b] = right.map((own) => own.every((bits) => bits[i]));
      kinds[a ? (b ? "both" : "first") : b ? "second" : "neither"].push(i);
    }
    return kinds;
  };
  bench.split = split;

  const numbers = (pair) => {
    const rows = [
      [pair.first, `${pair.robust_first_text}%`], [pair.second, `${pair.robust_second_text}%`],
      ["difference", `${pair.difference_text} points`], ["95% interval", `${pair.difference_low_text} to ${pair.difference_high_text} points`],
      ["p", pair.p_text], [`p, corrected over ${pair.n_pairs} pair${pair.n_pairs === 1 ? "" : "s"}`, pair.p_holm_text],
      ["test", pair.test], ["images", pair.n],
    ];
    const list = bench.element("dl", "", { class: "values" });
    for (const [term, text] of rows) {
      const line = bench.element("div");
      line.append(bench.element("dt", term), bench.element("dd", text));
      list.append(line);
    }
    return list;
  };

  const fourfold = (pair, kinds, seedName) => {
    const table = bench.element("table", "", { class: "plain", "data-fourfold": "" });
    table.append(bench.element("caption", `Images by outcome, seed ${seedName}`, { class: "caption" }));
    const head = table.createTHead().insertRow();
    for (const text of ["", `${pair.second} right`, `${pair.second} wrong`]) head.append(bench.element(text ? "th" : "td", text, text ? { scope: "col" } : {}));
    const body = table.createTBody();
    for (const [name, keys] of [[`${pair.first} right`, ["both", "first"]], [`${pair.first} wrong`, ["second", "neither"]]]) {
      const line = body.insertRow();
      line.append(bench.element("th", name, { scope: "row" }), ...keys.map((key) => bench.element("td", kinds[key].length, { "data-kind": key })));
    }
    return table;
  };

  const listed = (images, title, found) => {
    const box = bench.element("div"), pick = bench.element("div", "", { class: "pick" });
    box.append(bench.element("h3", `${title}: ${found.length} image${found.length === 1 ? "" : "s"}`));
    for (const image of found.slice(0, MOST)) {
      const picture = bench.images.thumbnail(images, image);
      const item = bench.element("span", picture ? "" : `${bench.images.idOf(images, image)} `, { title: `test image ${bench.images.idOf(images, image)}` });
      if (picture) item.append(picture);
      pick.append(item);
    }
    box.append(pick);
    if (found.length > MOST) box.append(bench.element("p", `and ${found.length - MOST} more`, { class: "caption" }));
    return box;
  };

  bench.forEachSetting((root, { pairs, images }) => {
    const box = root.querySelector("[data-compare]");
    if (!box || !pairs.length) return;
    box.hidden = false;
    const [first, second] = ["first", "second"].map((name) => box.querySelector(`[data-${name}]`));
    const names = [...new Set(pairs.flatMap((pair) => [pair.first, pair.second]))];
    bench.options(first, names);
    bench.options(second, names);
    second.value = 1;
    const seeds = [...new Set((images.methods ?? []).flatMap((method) => method.seeds.map((seed) => seed.seed)))];
    const show = () => {
      const chosen = [names[first.value], names[second.value]];
      const pair = pairs.find((one) => chosen.includes(one.first) && chosen.includes(one.second) && chosen[0] !== chosen[1]);
      const result = box.querySelector("[data-result]");
      if (!pair) {
        result.replaceChildren(bench.element("p", chosen[0] === chosen[1] ? "Choose two different methods." : "These two share no attack and no image.", { class: "empty" }));
        return;
      }
      const parts = [bench.element("p", pair.sentence, { class: "verdict" }), numbers(pair)];
      const kinds = images.n ? split(images, pair, seeds[0]) : null;
      if (kinds) parts.push(fourfold(pair, kinds, seeds[0]), listed(images, `Only ${pair.first} is right`, kinds.first), listed(images, `Only ${pair.second} is right`, kinds.second));
      result.replaceChildren(...parts);
    };
    for (const select of [first, second]) select.addEventListener("change", show);
    show();
  });
})();
