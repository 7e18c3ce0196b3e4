// What the other scripts share. Every script is a plain one; `bench` is their only global name.
"use strict";
const bench = { data: JSON.parse(document.getElementById("data").textContent), parts: [] };

// Return a new element with text, never with markup: names come from records.
bench.element = (tag, text = "", attributes = {}) => {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};

bench.options = (select, names) => {
  select.replaceChildren(...names.map((name, i) => {
    const option = bench.element("option", name);
    option.value = i;
    return option;
  }));
};

// Show lines of [term, text] next to the pointer; nothing hides the tooltip.
bench.tooltip = (event, lines) => {
  const box = document.getElementById("tooltip");
  box.hidden = !lines;
  if (!lines) return;
  box.replaceChildren(...lines.map(([term, text], i) => {
    const line = bench.element("div");
    if (i === 0 && !text) line.append(bench.element("b", term));
    else line.append(bench.element("span", term), text);
    return line;
  }));
  const { width, height } = box.getBoundingClientRect();
  const x = event.clientX + 14, y = event.clientY + 14;
  box.style.left = `${Math.max(4, Math.min(x, innerWidth - width - 8))}px`;
  box.style.top = `${y + height > innerHeight ? event.clientY - height - 10 : y}px`;
};

// Return the bits of base64 text as 0 and 1, the highest bit of a byte first.
bench.bits = (text, n) => {
  const bytes = atob(text), found = new Uint8Array(n);
  for (let i = 0; i < n; i++) found[i] = (bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1;
  return found;
};

// Call `make(element, data)` for every setting, when the page starts.
bench.forEachSetting = (make) => bench.parts.push(make);
