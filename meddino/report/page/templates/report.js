// The report's behaviour: theme, sorting, charts and the dialog of a case. All text from data goes in
// as text, never as HTML: names of cases come from strangers' files.
(() => {
  "use strict";

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const digits = (value) => (value === null || value === undefined ? "–" : value.toFixed(1));
  const root = document.documentElement;

  // ---- theme ---------------------------------------------------------------------------------

  const toggle = document.getElementById("theme");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
  const showTheme = () => toggle.setAttribute("aria-pressed", String(isDark()));
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("meddino-theme", root.dataset.theme);
    } catch {
      // No storage: it holds until the page is left.
    }
    showTheme();
  });
  systemIsDark.addEventListener("change", showTheme);
  showTheme();

  // ---- tables --------------------------------------------------------------------------------

  const sortKey = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text.replaceAll(",", ""));
    return text === "" || text === "–" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortBy = (table, head) => {
    const column = Number(head.dataset.column);
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [sortKey(row, column), row]);
    rows.sort(([a], [b]) => {
      // What is not known stays at the end, whichever way.
      if (a === null || b === null) return (a === null) - (b === null);
      return up ? compare(a, b) : compare(b, a);
    });
    body.append(...rows.map(([, row]) => row));
  };

  const makeSortable = (table) => {
    for (const head of all("th[data-column]", table)) {
      const button = make("button", { type: "button" }, ...head.childNodes);
      const of = head.dataset.of ? `, ${head.dataset.of}` : "";
      button.setAttribute("aria-label", `${button.textContent.trim()}${of}: sort`);
      button.addEventListener("click", () => sortBy(table, head));
      head.append(button);
    }
  };
  all("table.sortable").forEach(makeSortable);

  const tableOf = (caption, heads, rows) => {
    const cells = heads.map((text, column) => {
      const head = make("th", { scope: "col" }, text);
      head.dataset.column = column;
      return head;
    });
    const table = make(
      "table",
      { className: "sortable" },
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...cells)),
      make("tbody", {}, ...rows),
    );
    makeSortable(table);
    return table;
  };
  const scrolling = (name, table) => {
    const frame = make("div", { className: "scroll", tabIndex: 0 }, table);
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", name);
    return frame;
  };
  const swatch = (colour) => {
    const made = make("span", { className: "swatch" });
    made.style.setProperty("--key", colour);
    return made;
  };
  const cellOf = (value) => {
    const number = typeof value === "number";
    const cell = make("td", { className: number ? "" : "text" });
    cell.textContent = value ?? "–";
    return cell;
  };

  // ---- charts --------------------------------------------------------------------------------

  const charts = data("charts");
  const keys = data("keys");
  const scores = data("scores");
  const text = { labelColor: "var(--muted)", titleColor: "var(--muted)", titleFontWeight: 500 };
  const config = {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      ...text,
      labelFontSize: 12,
      titleFontSize: 12,
      gridColor: "var(--line)",
      domainColor: "var(--edge)",
      tickColor: "var(--edge)",
    },
    header: { labelColor: "var(--ink)", titleColor: "var(--ink)" },
  };
  const tooltip = { theme: "page", disableDefaultStyle: true };
  // `ast`: expressions are interpreted, since the page forbids itself to make code from text.
  const options = { renderer: "svg", actions: false, defaultStyle: false, ast: true, config, tooltip };
  const panels = new Map();

  const chosen = (group) => all("select[data-key]", group).map((select) => select.value);
  const keyOf = (panel) => [panel.dataset.chart, ...chosen(panel.closest(".group"))].join("/");
  const picked = (group) =>
    all('.legend button[aria-pressed="true"]', group).map((button) => button.dataset.series);

  const rowsOf = (chart) => Object.values(chart.spec.datasets ?? {}).sort((a, b) => b.length - a.length)[0];

  const draw = async (panel) => {
    const plot = panel.querySelector(".plot");
    const chart = charts[keyOf(panel)];
    panel.classList.toggle("empty", !chart);
    const before = panels.get(panel);
    const turn = (before?.turn ?? 0) + 1;
    panels.set(panel, { ...before, turn });
    if (!chart) return;
    const spec = structuredClone(chart.spec);
    const isCases = panel.dataset.chart === "cases";
    if (isCases) spec.datasets = { cases: caseRows() };
    const group = panel.closest(".group");
    for (const parameter of spec.params ?? [])
      if (parameter.name === "shown") parameter.value = picked(group);
    plot.style.minWidth = `${chart.width_px}px`;
    const made = await vegaEmbed(plot, spec, options);
    if (panels.get(panel).turn !== turn) return made.finalize();
    before?.made?.finalize();
    panels.set(panel, { made, turn });
    if (isCases)
      made.view.addEventListener("click", (event, item) => {
        if (item?.datum?.case !== undefined) openCase(item.datum.case, plot, item.datum.method);
      });
    if (panel.dataset.chart === "structures")
      made.view.addEventListener("click", (event, item) => {
        const place = current().structures.indexOf(item?.datum?.structure);
        if (place < 0) return;
        control("structure").value = String(place);
        refresh(group);
      });
  };

  // A series as the charts draw it: its line, with its shape in the middle.
  const drawnKey = ({ colour, dashes, shape }) => {
    const drawn = (tag, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    const svg = drawn("svg", { class: "key", viewBox: "0 0 40 12", "aria-hidden": "true" });
    const line = { d: "M1,6H39", "stroke-width": 2.5, "stroke-dasharray": dashes.join(" ") };
    const dot = { d: shape, transform: "translate(20 6) scale(4.6)" };
    svg.append(drawn("path", line), drawn("path", dot));
    svg.style.color = colour;
    return svg;
  };

  const legendOf = (group) => {
    const legend = group.querySelector(".legend");
    if (!legend) return;
    const kept = new Set(picked(group));
    const names = new Map();
    for (const panel of all("[data-chart]", group)) {
      const chart = charts[keyOf(panel)];
      const present = new Set(chart ? rowsOf(chart).map((row) => row.series) : []);
      chart?.series.forEach((name, number) => present.has(name) && names.set(name, number));
    }
    const buttons = [...names].map(([name, number]) => {
      const button = make("button", { type: "button" }, drawnKey(keys[number]), name);
      button.dataset.series = name;
      button.setAttribute("aria-pressed", String(kept.has(name)));
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        for (const panel of all("[data-chart]", group))
          panels.get(panel)?.made?.view.signal("shown", picked(group)).runAsync();
      });
      return button;
    });
    legend.replaceChildren(...buttons);
  };

  // The numbers of a group's charts as tables, made when a reader opens them.
  const listNumbers = (fold) => {
    const group = fold.closest(".group");
    const tables = all("[data-chart]", group).flatMap((panel) => {
      const chart = charts[keyOf(panel)];
      if (!chart) return [];
      const name = panel.querySelector("figcaption")?.textContent ?? "";
      const rows = rowsOf(chart).map((row) =>
        make("tr", {}, ...chart.columns.map(([field]) => cellOf(row[field]))),
      );
      const heads = chart.columns.map(([, head]) => head);
      return [scrolling(`${name}, numbers`, tableOf(name, heads, rows))];
    });
    fold.querySelector(".numbers").replaceChildren(...tables);
  };

  const refresh = (group) => {
    legendOf(group);
    for (const panel of all("[data-chart]", group)) if (panels.has(panel)) draw(panel);
    for (const fold of all("details[data-numbers][open]", group)) listNumbers(fold);
    if (group.id === "case-charts") listCases();
  };

  for (const group of all(".group")) {
    legendOf(group);
    for (const select of all("select", group))
      select.addEventListener("change", () => {
        if (select.id === "case-benchmark") listStructures();
        refresh(group);
      });
    for (const fold of all("details[data-numbers]", group))
      fold.addEventListener("toggle", () => fold.open && listNumbers(fold));
  }

  // ---- cases ---------------------------------------------------------------------------------

  const MEAN = "";
  const control = (name) => document.getElementById(`case-${name}`);
  const current = () => scores[control("benchmark").value];

  const listStructures = () => {
    const names = current().structures;
    const option = (value, label) => make("option", { value }, label);
    const numbered = names.map((name, number) => option(String(number), name));
    control("structure").replaceChildren(option(MEAN, "mean over structures"), ...numbered);
  };

  // Value of a case: of one structure, or the mean of those that count.
  const valueOf = (metric, method, place) => {
    const structure = control("structure").value;
    const values = current().values[metric][method];
    if (structure !== MEAN) return values[Number(structure)][place];
    const known = values.map((each) => each[place]).filter((value) => value !== null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  };

  const caseRows = () => {
    const { cases, methods, labels, structures } = current();
    const metric = control("metric").value;
    const structure = control("structure").value;
    const name = structure === MEAN ? "mean" : structures[Number(structure)];
    return methods.flatMap((_, method) =>
      cases.flatMap((each, place) => {
        const value = valueOf(metric, method, place);
        // Evenly spread without order, and the same each time.
        const jitter = ((place * 0.618034) % 1) * 2 - 1;
        return value === null
          ? []
          : [{ case: each, method: labels[method], structure: name, value, jitter }];
      }),
    );
  };

  const listCases = () => {
    const { cases, labels, methods } = current();
    const metric = control("metric").value;
    const rows = cases.map((name, place) => {
      const button = make("button", { type: "button", className: "link" }, name);
      button.addEventListener("click", () => openCase(name, button));
      const cells = methods.map((_, method) => {
        const value = valueOf(metric, method, place);
        const cell = make("td", {}, digits(value));
        cell.dataset.value = value ?? "";
        return cell;
      });
      return make("tr", {}, make("th", { scope: "row" }, button), ...cells);
    });
    const chosenMetric = control("metric").selectedOptions[0].textContent;
    const caption = `${chosenMetric} of ${cases.length} cases; a name opens the case`;
    document.getElementById("case-table").replaceChildren(tableOf(caption, ["Case", ...labels], rows));
  };

  // ---- the dialog of a case --------------------------------------------------------------------

  const dialog = document.getElementById("case");
  const opacity = document.getElementById("case-opacity");
  const slider = document.getElementById("case-slice");
  const loaded = new Map();
  // Errors are told apart by how light they are as well as by their colour.
  const ERRORS = { missed: [64, 140, 255], extra: [255, 176, 0], other: [255, 255, 255] };
  let opener = null;
  let shownCase = null;
  let shownViews = [];
  let only = 0; // the place of the one structure that is left, counted from 1; 0 for all

  const overlaysOf = (benchmark) => {
    if (!loaded.has(benchmark)) {
      const script = all("script[data-overlays]").find((each) => each.dataset.overlays === benchmark);
      loaded.set(benchmark, script ? JSON.parse(script.textContent) : { cases: [], structures: [] });
    }
    return loaded.get(benchmark);
  };

  const pictureOf = async (uri) => {
    const picture = make("img", { src: uri });
    await picture.decode();
    return picture;
  };

  // Structures of all slices of a picture: a place among the structures for each pixel.
  const labelsOf = async (uri) => {
    const picture = await pictureOf(uri);
    const { naturalWidth: width, naturalHeight: height } = picture;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    return Uint8Array.from({ length: width * height }, (_, pixel) => pixels[4 * pixel]);
  };

  const rgbOf = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

  // The colour of a pixel, or none: of its structure, or of how it differs from the reference.
  const painter = (structures, errors) => {
    const colours = structures.map(({ colour }) => rgbOf(colour));
    const counted = (place) => (only && place !== only ? 0 : place);
    return (place, truth) => {
      const [shown, wanted] = [counted(place), counted(truth)];
      if (!errors) return shown ? colours[shown - 1] : null;
      if (shown === wanted) return null;
      if (!shown) return ERRORS.missed;
      return wanted ? ERRORS.other : ERRORS.extra;
    };
  };

  const view = (title, score, drawn, image, labels, name) => {
    const [width, height] = drawn.size_px;
    const canvas = () => make("canvas", { width, height });
    const [below, above] = [canvas(), canvas()];
    below.setAttribute("role", "img");
    above.className = "layer";
    above.setAttribute("aria-hidden", "true");
    const stack = make("div", { className: "stack" }, below, above);
    const figure = make("figure", {}, stack, make("figcaption", {}, make("b", {}, title), " ", score));
    const paint = (row, place, truth, colourOf) => {
      below.getContext("2d").drawImage(image, 0, -row * height);
      below.setAttribute("aria-label", `${title}, ${name}, ${place} ${score}`);
      const context = above.getContext("2d");
      const pixels = context.createImageData(width, height);
      const from = row * width * height;
      for (let at = 0; labels && at < width * height; at += 1) {
        const colour = colourOf(labels[from + at], truth[from + at]);
        if (colour) pixels.data.set([...colour, 255], 4 * at);
      }
      context.putImageData(pixels, 0, 0);
    };
    return { figure, paint };
  };

  const viewsOf = async (drawn, name, marked) => {
    const { cases, methods, labels, values } = current();
    const place = cases.indexOf(name);
    const metric = control("metric").value;
    const title = control("metric").selectedOptions[0].textContent;
    const [image, truth] = await Promise.all([pictureOf(drawn.image), labelsOf(drawn.reference)]);
    const views = [
      view("Image", "", drawn, image, null, name),
      { ...view("Reference", "", drawn, image, truth, name), isReference: true },
    ];
    for (const [method, key] of methods.entries()) {
      if (!(key in drawn.methods)) continue;
      const score = values[metric] ? `${title} ${digits(valueOf(metric, method, place))}` : "";
      const found = await labelsOf(drawn.methods[key]);
      const made = view(labels[method], score, drawn, image, found, name);
      made.figure.classList.toggle("marked", labels[method] === marked);
      views.push(made);
    }
    return views.map((each) => ({ ...each, truth }));
  };

  const drawnCase = () =>
    overlaysOf(control("benchmark").value).cases.find((each) => each.case === shownCase);

  const paintViews = () => {
    const drawn = drawnCase();
    if (!drawn) return;
    const row = Number(slider.value);
    const place = `slice ${drawn.shown[row]} of ${drawn.slices}`;
    document.getElementById("case-place").textContent = place;
    slider.setAttribute("aria-valuetext", place);
    const errors = document.getElementById("case-show").value === "errors";
    document.getElementById("case-errors").hidden = !errors;
    const { structures } = overlaysOf(control("benchmark").value);
    const [plain, compared] = [painter(structures, false), painter(structures, errors)];
    for (const { paint, truth, isReference } of shownViews)
      paint(row, place, truth, isReference ? plain : compared);
  };

  // Each structure's score by every method; its name leaves it alone in the pictures.
  const listCaseStructures = () => {
    const { cases, labels, methods, structures, values } = current();
    const drawn = overlaysOf(control("benchmark").value).structures;
    const place = cases.indexOf(shownCase);
    const metric = control("metric").value;
    const rows = structures.map((name, number) => {
      const at = drawn.findIndex((each) => each.name === name) + 1;
      const head = make("th", { scope: "row" }, name);
      if (at) {
        const key = swatch(drawn[at - 1].colour);
        const button = make("button", { type: "button", className: "alone" }, key, name);
        button.setAttribute("aria-pressed", String(only === at));
        button.addEventListener("click", () => {
          only = only === at ? 0 : at;
          for (const other of all(".alone")) other.setAttribute("aria-pressed", "false");
          button.setAttribute("aria-pressed", String(only === at));
          paintViews();
        });
        head.replaceChildren(button);
      }
      const cells = methods.map((_, method) =>
        make("td", {}, digits(values[metric][method][number][place])),
      );
      return make("tr", {}, head, ...cells);
    });
    const caption = `${control("metric").selectedOptions[0].textContent} of each structure`;
    const table = tableOf(caption, ["Structure", ...labels], rows);
    document.getElementById("case-structures").replaceChildren(table);
  };

  const showCase = async (name, marked) => {
    shownCase = name;
    only = 0;
    const overlays = overlaysOf(control("benchmark").value);
    const drawn = drawnCase();
    document.getElementById("case-title").textContent = `${name}, ${current().label}`;
    document.getElementById("case-controls").hidden = !drawn;
    const place = document.getElementById("case-views");
    listCaseStructures();
    if (!drawn) {
      const counted = `${overlays.cases.length} of ${current().cases.length}`;
      const why = `There is no picture of this case: ${counted} cases are drawn, spread from worst to best.`;
      place.replaceChildren(make("p", {}, why));
      return;
    }
    slider.max = String(drawn.shown.length - 1);
    slider.value = String(drawn.first);
    slider.disabled = drawn.shown.length === 1;
    const views = await viewsOf(drawn, name, marked);
    if (shownCase !== name) return; // another case was opened meanwhile
    shownViews = views;
    place.replaceChildren(...views.map(({ figure }) => figure));
    paintViews();
  };

  const openCase = (name, from, marked) => {
    opener = from;
    showCase(name, marked);
    dialog.showModal();
    for (const panel of all('[data-chart="cases"]'))
      panels.get(panel)?.made?.view.signal("chosen", name).runAsync();
  };

  const step = (by) => {
    const names = current().cases;
    showCase(names[(names.indexOf(shownCase) + by + names.length) % names.length]);
  };

  if (dialog) {
    const fade = () => dialog.style.setProperty("--layer", String(opacity.value / 100));
    opacity.addEventListener("input", fade);
    fade();
    slider.addEventListener("input", paintViews);
    document.getElementById("case-show").addEventListener("change", paintViews);
    document.getElementById("case-previous").addEventListener("click", () => step(-1));
    document.getElementById("case-next").addEventListener("click", () => step(1));
    document.getElementById("case-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select")) return;
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    dialog.addEventListener("close", () => opener?.focus());
    listStructures();
    listCases();
  }

  // Cases that other sections name.
  for (const button of all("button[data-case]"))
    button.addEventListener("click", () => {
      const select = control("benchmark");
      if (select.value !== button.dataset.benchmark) {
        select.value = button.dataset.benchmark;
        select.dispatchEvent(new Event("change"));
      }
      openCase(button.dataset.case, button, button.dataset.method);
    });

  // ---- when what is drawn ----------------------------------------------------------------------

  const waiting = new Set(all("[data-chart]"));
  let undrawn = waiting.size;
  const start = async (panel) => {
    if (!waiting.delete(panel)) return;
    await draw(panel);
    undrawn -= 1;
    if (undrawn === 0) root.dataset.drawn = "all";
  };
  const seen = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && start(entry.target)),
    { rootMargin: "400px" },
  );
  waiting.forEach((panel) => seen.observe(panel));
  // The rest while the reader reads, so that search and print find them.
  const rest = async () => {
    const [panel] = waiting;
    if (!panel) return;
    await start(panel);
    requestIdleCallback(rest);
  };
  requestIdleCallback(rest);

  // ---- copying -------------------------------------------------------------------------------

  for (const button of all("button[data-copies]"))
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
      button.textContent = "Copied";
    });
})();
