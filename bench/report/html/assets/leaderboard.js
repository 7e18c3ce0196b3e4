// Sort, filter and copy the leaderboard. The table itself is in the page and needs no script.
"use strict";
(() => {
  // Numbers by size and text by name, in both directions with what is missing last.
  const compare = (direction) => (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return direction * (Number.isNaN(x - y) ? a.localeCompare(b) : x - y);
  };
  DataTable.ext.type.order["value-asc"] = compare(1);
  DataTable.ext.type.order["value-desc"] = compare(-1);

  const cellText = (cell) => cell.textContent.replace(/\s+/g, " ").trim();

  // Return the rows as they are shown, without columns that only draw.
  const shown = (table, element) => {
    const heads = [...element.querySelectorAll("thead th")];
    const kept = heads.map((head) => !("plain" in head.dataset));
    const rows = table.rows({ search: "applied", order: "applied" }).nodes().toArray();
    return [heads, ...rows.map((row) => [...row.children])].map((cells) => cells.filter((_, i) => kept[i]).map(cellText));
  };

  const formats = {
    markdown: ([heads, ...rows]) => {
      const line = (cells) => `| ${cells.map((text) => text.replace(/([\\|*_`<])/g, "\\$1")).join(" | ")} |`;
      return [line(heads), `|${heads.map((_, i) => (i < 2 ? "---|" : "--:|")).join("")}`, ...rows.map(line)].join("\n");
    },
    csv: (lines) => lines.map((cells) => cells.map((text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text)).join(",")).join("\n"),
    latex: ([heads, ...rows]) => {
      const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "−": "$-$", "–": "--", "ε": "$\\epsilon$", "†": "$^\\dagger$", "✓": "", "✗": "" };
      const escaped = (text) => text.replace(/[\\&%$#_{}~^±−–ε†✓✗]/g, (c) => special[c] ?? `\\${c}`).trim();
      const line = (cells) => `${cells.map((text) => `{}${escaped(text)}`).join(" & ")} \\\\`;
      return [`\\begin{tabular}{ll${"r".repeat(heads.length - 2)}}`, "\\toprule", line(heads), "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}"].join("\n");
    },
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // not allowed here: select it and copy, as a person would
      const area = bench.element("textarea", text, { "aria-hidden": "true" });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  bench.forEachSetting((root) => {
    const element = root.querySelector("[data-board]");
    if (!element) return;
    const types = [...element.querySelectorAll("thead th")].map((head, targets) => ({ targets, type: "value", orderable: !("plain" in head.dataset) }));
    const table = new DataTable(element, {
      paging: false, info: false, autoWidth: false, order: [], columnDefs: types,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    });
    const tools = root.querySelector("[data-tools]");
    tools.hidden = false;
    tools.querySelector("[data-filter]").addEventListener("input", (event) => table.search(event.target.value).draw());
    const rows = [...element.querySelectorAll("tbody tr")];
    const hides = [...tools.querySelectorAll("[data-hide]")];
    for (const box of hides) {
      const marked = rows.filter((row) => box.dataset.hide in row.dataset).length;
      box.parentElement.hidden = marked === 0 || marked === rows.length;
      box.addEventListener("change", () => table.draw());
    }
    table.search.fixed("hidden", (_, __, i) => {
      const row = table.row(i).node();
      return !hides.some((box) => box.checked && box.dataset.hide in row.dataset);
    });
    for (const button of tools.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", async () => {
        await copy(formats[button.dataset.copy](shown(table, element)));
        tools.querySelector("[data-copied]").textContent = "Copied.";
      });
    }
    root.board = { table, text: (format) => formats[format](shown(table, element)) };
  });
})();
