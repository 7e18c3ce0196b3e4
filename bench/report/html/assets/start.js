// Start the page: one setting at a time, then everything that the other scripts add.
"use strict";
(async () => {
  const blocks = [...document.querySelectorAll("[data-setting]")];
  const links = [...document.querySelectorAll("[data-choose]")];
  const roots = bench.data.settings.map(({ slug }) => document.getElementById(slug));

  const choose = (slug) => {
    for (const block of blocks) block.toggleAttribute("data-chosen", block.dataset.setting === slug);
    for (const link of links) {
      if (link.dataset.choose === slug) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const number = 1 + bench.data.settings.findIndex((setting) => setting.slug === slug);
    for (const link of document.querySelectorAll("[data-part]")) link.setAttribute("href", `#s${number}-${link.dataset.part}`);
    document.getElementById(slug)?.dispatchEvent(new Event("chosen"));
  };
  const slugs = bench.data.settings.map((setting) => setting.slug);
  const target = document.getElementById(location.hash.slice(1)); // a setting, or a part of one
  const largest = bench.data.settings.reduce((best, one) => (Object.keys(one.looks).length > Object.keys(best?.looks ?? {}).length ? one : best), null);
  const first = target?.closest("[data-setting]")?.dataset.setting ?? largest?.slug;

  const started = new Set();
  const start = async (slug) => {
    choose(slug);
    const i = slugs.indexOf(slug);
    if (i < 0 || started.has(slug)) return;
    started.add(slug);
    const own = blocks.filter((block) => block.dataset.setting === slug);
    await Promise.all(bench.parts.map((make) => make(roots[i], bench.data.settings[i], own)));
  };
  for (const link of links) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      history.replaceState(null, "", `#${link.dataset.choose}`);
      start(link.dataset.choose);
    });
  }
  // a closed fold is not printed
  const folds = [...document.querySelectorAll("[data-setting] section details:not(.run)")];
  let closed = [];
  addEventListener("beforeprint", () => { closed = folds.filter((fold) => !fold.open); for (const fold of closed) fold.open = true; });
  addEventListener("afterprint", () => { for (const fold of closed) fold.open = false; });
  // in print and without scripts every setting is shown
  document.documentElement.classList.add("ready");
  await start(first);
  target?.scrollIntoView({ behavior: "instant" });
  document.body.dataset.ready = "1";
})();
