(function () {
  "use strict";
  // What is shown first is already in the page; this script sorts, hides, re-ranks and explains it.
  // Details of a score and paired differences lie in a script for each encoder, loaded when asked for.
  // Text from the data reaches the page through textContent alone.

  const data = JSON.parse(document.getElementById("data").textContent);
  const boards = data.boards;
  if (!boards.length) return;
  const sections = Array.from(document.querySelectorAll("section.board"));
  const controls = document.getElementById("controls");
  const statusLine = make("p", "", { id: "status", class: "status", role: "status", "aria-live": "polite" });
  const drill = document.getElementById("drill");
  const tip = document.getElementById("tip");
  const plainTitle = document.title;
  const DASH = "\u2013";
  const MOST_PINS = 6;
  const TEXT_COLUMNS = ["encoder", "kind", "training"];
  const LEVELS = ["none", "V0", "V1", "V2", "V3"];
  const GROUPS = ["ranked", "incomplete", "reported", "control"];
  const CELL_PARTS = [["ci", "intervals in cells"]];
  const FILTERS = [
    ["family", "Family of tasks", []],
    ["organ", "Organ", []],
    ["contamination", "Contamination", [["clean", "clean on all shown"], ["contaminated", "contaminated somewhere"], ["unknown", "unknown somewhere"]]],
    ["verification", "Verification", LEVELS.map((v) => [v, data.wording[v]])],
    ["complete", "Completeness", [["yes", "complete"], ["no", "incomplete"]]],
    ["kind", "Kind", ["encoder", "baseline", "supervised", "control"].map((k) => [k, k])],
  ];

  let shownRules = "";
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [sheet];
  const details = new Map();
  window.mbenchDetails = (id, slug, content) => { details.set(id + "/" + slug, content); };

  const views = boards.map(makeView);
  let state = blank(0);
  let memo = {};  // of what follows from the state
  let inputs = {};
  let openedFrom = null;

  // ---- small tools -------------------------------------------------------------------------

  function make(name, text, attributes) {
    const node = document.createElement(name);
    if (text !== undefined && text !== null) node.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    return node;
  }
  function draw(name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function fixed(value, digits) {
    if (value === null || value === undefined) return DASH;
    const text = halfEven(value, digits);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "\u2212");
  }
  function halfEven(value, digits) {
    // Python rounds an exact half to the even digit, toFixed away from zero; both must print alike.
    const text = value.toFixed(digits);
    const half = Math.abs(value * 2 ** (digits + 1)) % 2 === 1;
    if (!half || Number(text.slice(-1)) % 2 === 0) return text;
    return (value - Math.sign(value) * 10 ** -digits / 4).toFixed(digits);
  }
  function span(ends, digits) {
    return ends ? fixed(ends[0], digits) + " to " + fixed(ends[1], digits) : DASH;
  }
  function intervalOf(cell) { return cell.ci95 ? span(cell.ci95, 3) : cell.why; }
  function mean(values) { return values.length ? exactSum(values) / values.length : null; }
  // The sum rounded once (Shewchuk 1997), as Python's fmean has it: else equal means could differ in
  // their last digit, and encoders that share a rank there would not share it here.
  function exactSum(values) {
    const parts = [];
    for (let x of values) {
      let kept = 0;
      for (let y of parts) {
        if (Math.abs(x) < Math.abs(y)) [x, y] = [y, x];
        const high = x + y, low = y - (high - x);
        if (low) parts[kept++] = low;
        x = high;
      }
      parts.length = kept;
      parts.push(x);
    }
    return roundedOnce(parts);
  }
  function roundedOnce(parts) {
    let n = parts.length, high = parts[--n], low = 0;
    while (n > 0 && !low) {
      const x = high, y = parts[--n];
      high = x + y;
      low = y - (high - x);
    }
    if (n > 0 && low * parts[n - 1] > 0) {
      const twice = low * 2, next = high + twice;
      if (twice === next - high) high = next;
    }
    return high;
  }
  function secondary(name, value) {
    return name.endsWith("-p") && value !== null && value < 0.001 ? "<0.001" : fixed(value, 3);
  }
  function words(name) { return own(data.wording, name) || String(name).replaceAll("-", " "); }
  function same(a, b) { return a.length === b.length && a.every((item) => b.includes(item)); }
  function board() { return boards[state.board]; }
  function view() { return views[state.board]; }
  function own(object, key) { return Object.prototype.hasOwnProperty.call(object, key) ? object[key] : undefined; }
  function cellOf(encoder, taskId) { return own(encoder.cells, taskId); }

  function makeView(content, index) {
    const section = sections[index];
    const rows = { main: [], heat: [] };
    for (const name of ["main", "heat"]) {
      for (const row of section.querySelectorAll('[data-table="' + name + '"] tr[data-encoder]')) {
        const cells = {};
        for (const cell of row.children) cells[cell.dataset.col] = cell;
        rows[name][Number(row.dataset.encoder)] = { row: row, cells: cells, kept: name === "main" ? keep(cells) : null };
      }
    }
    return { section: section, rows: rows, changed: false };
  }
  function keep(cells) {
    const kept = {};
    for (const key of Object.keys(cells)) kept[key] = Array.from(cells[key].childNodes);
    return kept;
  }

  // ---- state and the address -----------------------------------------------------------------

  function blank(index) {
    return {
      board: index, sort: "rank", dir: "ascending", q: "", mix: false, only: false, tasks: null, pins: [],
      family: "", organ: "", contamination: "", verification: "", complete: "", kind: "",
      hide: hiddenAtFirst(index),
    };
  }
  function hiddenAtFirst(index) {
    return boards[index].columns.filter((c) => !c.shown).map((c) => c.key);
  }
  function address() {
    const first = blank(state.board);
    const out = new URLSearchParams({ v: "1" });
    if (boards.length > 1) out.set("board", board().key);
    for (const key of ["sort", "dir", "q", "family", "organ", "contamination", "verification", "complete", "kind"]) {
      if (state[key] !== first[key]) out.set(key, state[key]);
    }
    for (const key of ["mix", "only"]) if (state[key]) out.set(key, "1");
    if (state.tasks) appendAll(out, "task", state.tasks);
    if (!same(state.hide, first.hide)) appendAll(out, "hide", state.hide);
    for (const label of state.pins) out.append("pin", label);
    const text = out.toString();
    return text === "v=1" ? "" : "#" + text;
  }
  function appendAll(out, key, values) {
    for (const value of values.length ? values : [""]) out.append(key, value);
  }
  function remember() {
    const where = window.location.href.split("#")[0] + address();
    try { window.history.replaceState(null, "", where); } catch (refused) { /* the view still works */ }
  }
  function restore() {
    const given = new URLSearchParams(window.location.hash.slice(1));
    if (given.get("v") !== "1") return boardOfAnchor();
    const index = boards.findIndex((b) => b.key === given.get("board"));
    state = blank(Math.max(0, index));
    for (const key of ["q", "family", "organ", "contamination", "verification", "complete", "kind"]) {
      state[key] = given.get(key) || "";
    }
    if (sortable(given.get("sort"))) state.sort = given.get("sort");
    if (given.get("dir") === "descending") state.dir = "descending";
    for (const key of ["mix", "only"]) state[key] = given.get(key) === "1";
    const known = board().tasks.map((t) => t.id);
    if (given.has("task")) setTasks(known.filter((id) => given.getAll("task").includes(id)));
    if (given.has("hide")) state.hide = given.getAll("hide").filter(Boolean);
    const labels = board().encoders.map((e) => e.label);
    state.pins = given.getAll("pin").filter((l, i, all) => labels.includes(l) && all.indexOf(l) === i).slice(0, MOST_PINS);
    return true;
  }
  function boardOfAnchor() {
    const index = boards.findIndex((b) => "#" + b.id === window.location.hash);
    if (index >= 0 && index !== state.board) state = blank(index);
    return index >= 0;
  }
  function sortable(key) {
    if (!key) return false;
    return board().columns.some((c) => c.key === key) || board().tasks.some((t) => "task:" + t.id === key);
  }
  function rankedIds(tasks) { return tasks.filter((t) => t.ranked).map((t) => t.id); }
  function filteredTasks() {
    return board().tasks.filter((t) => (!state.family || t.family === state.family) && (!state.organ || t.organ === state.organ));
  }
  function setTasks(ids) { state.tasks = same(ids, rankedIds(filteredTasks())) ? null : ids; }
  // What encoders are ranked on: the tasks that the reader ticks, or those that pass the filters.
  function chosen() { return (memo.chosen ||= state.tasks || rankedIds(filteredTasks())); }
  function isWhole() { return (memo.whole ??= same(chosen(), rankedIds(board().tasks))); }
  // Standings with intervals and letters, which are made where the predictions are: null without.
  function standings() {
    if (memo.subset !== undefined) return memo.subset;
    const family = board().families.find((name) => same(chosen(), rankedIds(board().tasks.filter((t) => t.family === name))));
    return (memo.subset = (family && own(board().subsets, family)) || null);
  }

  // ---- the numbers of a set of tasks, as leaderboard.aggregate has them ------------------------

  function lacks(encoder, ids) {
    return ids.filter((id) => { const cell = cellOf(encoder, id); return !cell || !cell.comparable; });
  }
  function isCandidate(encoder, ids) {
    return encoder.kind !== "control" && encoder.verification !== "V0" && lacks(encoder, ids).length === 0;
  }
  function familyMeans(encoder, ids) {
    const byFamily = {};
    for (const task of board().tasks) {
      if (ids.includes(task.id)) (byFamily["f:" + task.family] ||= []).push(cellOf(encoder, task.id));
    }
    const means = {};
    for (const [family, cells] of Object.entries(byFamily)) {
      if (cells.every(Boolean)) means[family] = mean(cells.map((cell) => cell.corrected));
    }
    return means;
  }
  function summarise(ids) {
    const candidates = ids.length ? board().encoders.filter((e) => isCandidate(e, ids)) : [];
    const result = new Map();
    for (const encoder of board().encoders) {
      const families = familyMeans(encoder, ids);
      const whole = ids.length && !lacks(encoder, ids).length;
      result.set(encoder, { families: families, mean: whole ? mean(Object.values(families)) : null, rank: null, mean_rank: null, win_rate: null });
    }
    const values = ids.map((id) => candidates.map((e) => e.cells[id].value));
    const means = candidates.map((e) => result.get(e).mean);
    for (const encoder of candidates) {
      const own = result.get(encoder);
      Object.assign(own, standing(encoder, values, ids, means), { rank: 1 + means.filter((m) => m > own.mean).length });
    }
    return result;
  }
  function standing(encoder, values, ids, means) {
    const places = [], wins = [], others = means.length - 1;
    ids.forEach((id, i) => {
      const value = encoder.cells[id].value;
      let above = 0, equal = -1;
      for (const v of values[i]) { if (v > value) above++; else if (v === value) equal++; }
      places.push(1 + above + equal / 2);
      wins.push((others - above - equal + equal / 2) / others);
    });
    return { mean_rank: mean(places), win_rate: others ? mean(wins) : null };
  }
  function numbers() {
    if (!isWhole()) return summarise(chosen());
    const result = new Map();
    for (const e of board().encoders) {
      const families = {};
      for (const [name, value] of Object.entries(e.families)) families["f:" + name] = value;
      result.set(e, { families: families, mean: e.mean, rank: e.rank, mean_rank: e.mean_rank, win_rate: e.win_rate });
    }
    return result;
  }
  // The standing on the chosen tasks: mean and gain with intervals, interval of the rank, letters.
  function standingOf(encoder) {
    if (!isWhole()) { const subset = standings(); return subset ? own(subset.standings, encoder.label) || null : null; }
    if (encoder.mean_ci95_cases === null) return null;
    return { mean: { value: encoder.mean, ci95: encoder.mean_ci95, ci95_cases: encoder.mean_ci95_cases }, gain: encoder.gain, rank_ci95: encoder.rank_ci95, letters: encoder.letters };
  }
  function groupOf(encoder, own) {
    if (own.rank !== null) return "ranked";
    if (encoder.kind === "control") return "control";
    return encoder.verification === "V0" ? "reported" : "incomplete";
  }
  function whyNot(encoder, own) {
    if (own.rank !== null) return "";
    if (encoder.kind === "control") return "";
    if (isWhole()) return "Not ranked: " + (encoder.unranked || "no reason given");
    if (encoder.verification === "V0") return "Not ranked: V0, reported and not recomputed";
    if (!chosen().length) return "Not ranked: no task is chosen";
    return "Not ranked: no comparable score on " + lacks(encoder, chosen()).length + " of " + chosen().length + " chosen tasks";
  }

  // ---- order and filters -----------------------------------------------------------------------

  function shownTasks() {
    return filteredTasks().filter((t) => !state.tasks || state.tasks.includes(t.id));
  }
  function passes(encoder, own) {
    const text = [encoder.label, encoder.title, encoder.description, (encoder.training_cohorts || []).join(" ")].join(" ").toLowerCase();
    return state.q.toLowerCase().split(/\s+/).every((word) => text.includes(word)) &&
      (!state.kind || encoder.kind === state.kind) &&
      (!state.verification || encoder.verification === state.verification) &&
      (!state.complete || encoder.complete === (state.complete === "yes")) &&
      (!state.contamination || passesContamination(encoder));
  }
  function passesContamination(encoder) {
    const states = shownTasks().map((t) => cellOf(encoder, t.id)).filter(Boolean).map((cell) => cell.contamination);
    if (state.contamination === "clean") return states.length > 0 && states.every((s) => s === "clean");
    return states.includes(state.contamination);
  }
  function contaminated(encoder) {
    const states = Object.values(encoder.cells).map((cell) => cell.contamination);
    return states.filter((c) => c === "contaminated").length + states.filter((c) => c === "unknown").length / 1000;
  }
  const READ = {
    rank: (e, own) => own.rank,
    encoder: (e) => e.label,
    letters: (e) => { const there = standingOf(e); return there && there.letters || null; },
    mean: (e, own) => own.mean,
    intervals: (e, own) => own.mean,
    gain: (e) => { const there = standingOf(e); return there && there.gain ? there.gain.value : null; },
    mean_rank: (e, own) => own.mean_rank,
    win_rate: (e, own) => own.win_rate,
    verification: (e) => LEVELS.indexOf(e.verification),
    seconds: (e) => e.seconds_per_slide,
    contamination: contaminated,
    training: (e) => e.training_cohorts && e.training_cohorts.join(", "),
  };
  function sortValue(encoder, numbers, key) {
    if (key.startsWith("task:")) { const cell = cellOf(encoder, key.slice(5)); return cell ? cell.value : null; }
    if (key.startsWith("family:")) return numbers.families["f:" + key.slice(7)] ?? null;
    const read = own(READ, key);
    return (read ? read(encoder, numbers) : encoder[key]) ?? null;
  }
  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);  // what is missing comes last, either way
    const order = typeof a === "string" ? a.localeCompare(b, "en") : a - b;
    return state.dir === "descending" ? -order : order;
  }
  function ordered(all) {
    const rows = board().encoders.map((encoder, index) => ({ encoder: encoder, index: index, own: all.get(encoder) }));
    for (const row of rows) {
      row.group = state.mix ? "ranked" : groupOf(row.encoder, row.own);
      row.key = sortValue(row.encoder, row.own, state.sort);
      row.shown = passes(row.encoder, row.own);
    }
    return rows.sort((a, b) => GROUPS.indexOf(a.group) - GROUPS.indexOf(b.group) || compare(a.key, b.key) || a.index - b.index);
  }

  // ---- showing ---------------------------------------------------------------------------------

  function refresh() {
    memo = {};
    showBoard();
    const all = numbers();
    const rows = ordered(all);
    const whole = isWhole();
    if (!whole || view().changed) { for (const row of rows) fill(row, whole); markBest(rows); }
    view().changed = !whole;
    for (const row of rows) label(row);
    for (const name of ["main", "heat"]) place(name, rows);
    choosePictured(rows);
    columns();
    headings();
    comparison(rows);
    say(rows);
  }
  function showBoard() {
    sections.forEach((section, index) => { section.hidden = index !== state.board; });
    for (const link of document.querySelectorAll("[data-board]")) {
      if (link.tagName !== "A") continue;
      if (Number(link.dataset.board) === state.board) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const stamp = board().phantom ? "PHANTOM: " : "";
    document.title = boards.length > 1 ? stamp + "Board " + board().key + " | madeleine-bench" : plainTitle;
    document.body.classList.toggle("phantom", board().phantom);
  }
  function put(entry, key, text, notes) {
    const cell = entry.cells[key];
    if (!cell) return;
    cell.classList.toggle("stale", text === DASH);
    cell.replaceChildren(make("span", text), ...(notes || []).map((note) => make("small", note)));
  }
  function fill(row, whole) {
    const entry = view().rows.main[row.index];
    if (whole) {
      for (const key of Object.keys(entry.kept)) {
        entry.cells[key].classList.remove("stale");
        if (key !== "encoder") entry.cells[key].replaceChildren(...entry.kept[key]);
      }
      return;
    }
    const there = standingOf(row.encoder);
    put(entry, "rank", row.own.rank === null ? DASH : String(row.own.rank), there && there.rank_ci95 && [places(there.rank_ci95)]);
    put(entry, "letters", there && there.letters || DASH);
    put(entry, "mean", fixed(row.own.mean, 3), there && [span(there.mean.ci95_cases, 3)]);
    put(entry, "gain", there && there.gain ? signed(there.gain.value) : DASH, there && there.gain && [span(there.gain.ci95_cases, 3)]);
    put(entry, "intervals", DASH);
    if (there) entry.cells.intervals.replaceChildren(strip(there.mean));
    put(entry, "mean_rank", fixed(row.own.mean_rank, 2));
    put(entry, "win_rate", fixed(row.own.win_rate, 2));
    for (const name of board().families) put(entry, "family:" + name, fixed(row.own.families["f:" + name] ?? null, 3));
  }
  function places(ends) { return ends[0] === ends[1] ? String(ends[0]) : ends[0] + " to " + ends[1]; }
  function signed(value) { const text = fixed(value, 3); return value > 0 && Number(text) ? "+" + text : text; }
  function strip(mean) {
    const { low, high, start, end } = board().axis;
    const x = (v) => start + Math.min(1, Math.max(0, (v - low) / (high - low))) * (end - start);
    const svg = draw("svg", { viewBox: "0 0 " + (end + start) + " 18", width: end + start, height: 18, role: "img", class: "strip" });
    svg.append(draw("title", {}, "95% confidence interval " + span(mean.ci95_cases, 3)));
    for (const [ends, name] of [[mean.ci95, "thin"], [mean.ci95_cases, "thick"]]) {
      if (ends) svg.append(draw("line", { x1: x(ends[0]), x2: x(ends[1]), y1: 9, y2: 9, class: name }));
    }
    const at = x(mean.value), turn = mean.value < low ? -6 : 6;
    if (mean.value < low || mean.value > high) svg.append(draw("path", { d: "M" + at + " 4l" + turn + " 5l" + -turn + " 5Z", class: "arrow" }));
    else svg.append(draw("line", { x1: at, x2: at, y1: 2, y2: 16, class: "point" }));
    return svg;
  }
  function label(row) {
    const line = view().rows.main[row.index].row;
    line.querySelector("[data-why]").textContent = whyNot(row.encoder, row.own);
    line.querySelector("input.pin").checked = state.pins.includes(row.encoder.label);
  }
  // The highest value of each column among the ranked rows.
  function markBest(rows) {
    const keys = ["mean", "gain", ...board().families.map((name) => "family:" + name)];
    const ranked = rows.filter((row) => row.own.rank !== null);
    for (const [table, columns] of [["main", keys], ["heat", board().tasks.map((t) => "task:" + t.id)]]) {
      for (const key of columns) {
        const values = ranked.map((row) => sortValue(row.encoder, row.own, key)).filter((v) => v !== null);
        const best = Math.max(...values);
        for (const row of rows) {
          const value = row.own.rank === null ? null : sortValue(row.encoder, row.own, key);
          view().rows[table][row.index].cells[key].classList.toggle("best", value === best);
        }
      }
    }
  }
  function place(name, rows) {
    const table = view().section.querySelector('[data-table="' + name + '"]');
    for (const body of table.tBodies) {
      const key = body.dataset.group;
      const members = rows.filter((row) => row.group === key);
      for (const row of members) {
        const line = view().rows[name][row.index].row;
        line.hidden = !row.shown;
        body.append(line);
      }
      body.hidden = !members.some((row) => row.shown);
      body.querySelector("tr.group").hidden = state.mix;
    }
  }
  function columns() {
    const hidden = state.hide.filter((key) => !key.startsWith("cell:"));
    const visible = new Set(shownTasks().map((t) => t.id));
    for (const task of board().tasks) if (!visible.has(task.id)) hidden.push("task:" + task.id);
    const families = new Set(board().tasks.filter((t) => chosen().includes(t.id)).map((t) => t.family));
    if (!isWhole()) for (const name of board().families) if (!families.has(name)) hidden.push("family:" + name);
    const rules = hidden.map((key) => '[data-table] [data-col="' + CSS.escape(key) + '"] { display: none; }');
    if (state.hide.includes("cell:ci")) rules.push(".heat .ci { display: none; }");
    const text = rules.join("\n");
    if (text !== shownRules) sheet.replaceSync(text);
    shownRules = text;
  }
  // Figures show the best encoders and the pinned ones.
  function choosePictured(rows) {
    const pinned = new Set(rows.filter((row) => state.pins.includes(row.encoder.label)).map((row) => row.index));
    for (const figure of view().section.querySelectorAll("[data-pictured]")) {
      const only = state.only && pinned.size > 1;
      let place = 0;
      for (const group of figure.querySelectorAll("g[data-encoder]")) {
        const index = Number(group.dataset.encoder);
        const shown = pinned.has(index) || (!only && !group.hasAttribute("data-more"));
        group.classList.toggle("shown", shown);
        group.classList.toggle("gone", !shown);
        if (shown && figure.dataset.pictured === "rows") group.setAttribute("transform", "translate(0 " + (Number(figure.dataset.top) + 18 * place++) + ")");
      }
    }
  }
  function headings() {
    let marked = false;
    for (const th of view().section.querySelectorAll("[data-table] thead [data-col]")) {
      const active = th.dataset.col === state.sort && !marked;
      if (active) { th.setAttribute("aria-sort", state.dir); marked = true; } else th.removeAttribute("aria-sort");
    }
  }
  function say(rows) {
    const shown = rows.filter((row) => row.shown).length;
    const count = chosen().length;
    let text = shown + " of " + rows.length + " encoders. ";
    if (!shown) text = "No encoder passes these filters. ";
    if (isWhole()) text += "Ranked on all " + count + " tasks with enough cases.";
    else if (!standings()) text += "Ranked on " + count + " chosen task" + (count === 1 ? "" : "s") + ". Confidence intervals and letters need the stored predictions; they are computed for all tasks and for each family, not for this choice.";
    else text += "Ranked on the " + count + " tasks of this family, with their own intervals. " + lettersNote();
    if (state.pins.length === 1) text += " Choose one more encoder to compare.";
    statusLine.textContent = text;
  }
  function lettersNote() {
    const note = standings().pairs_note;
    return note ? "No significant differences are marked: " + note + "." : "";
  }
  function change(part) {
    Object.assign(state, part);
    memo = {};
    syncControls();
    refresh();
    remember();
  }

  // ---- controls --------------------------------------------------------------------------------

  function buildControls() {
    controls.replaceChildren();
    inputs = {};
    memo = {};
    const bar = make("div", null, { class: "bar" });
    const search = make("input", null, { type: "search", id: "q" });
    search.addEventListener("input", () => change({ q: search.value }));
    inputs.q = search;
    bar.append(labelled("Search encoders", search, "wide"), labelled(FILTERS[0][1], selectFor(...FILTERS[0])));
    bar.append(filterPicker(), columnPicker(), taskPicker());
    bar.append(button("Download CSV", download), button("Reset", () => { state = blank(state.board); change({}); }));
    bar.append(statusLine);
    controls.append(bar);
    controls.hidden = false;
    syncControls();
  }
  function labelled(text, field, wide) {
    const box = make("div", null, { class: wide ? "field " + wide : "field" });
    field.setAttribute("aria-label", text);
    if (field.type === "search") field.placeholder = text;
    box.append(make("label", text, { for: field.id }), field);
    return box;
  }
  function button(text, act) {
    const node = make("button", text, { type: "button" });
    node.addEventListener("click", act);
    return node;
  }
  function filterPicker() {
    const box = make("details", null, { id: "filters" });
    const inner = make("div", null, { class: "bar" });
    for (const filter of FILTERS.slice(1)) inner.append(labelled(filter[1], selectFor(...filter)));
    inner.append(
      tick("Mix the groups", "mix", () => state.mix, (on) => change({ mix: on })),
      tick("Figures show compared encoders only", "only", () => state.only, (on) => change({ only: on })));
    box.append(make("summary", "Filters"), inner);
    return box;
  }
  function selectFor(key, title, fixedOptions) {
    const select = make("select", null, { id: "filter-" + key });
    const inData = () => Array.from(new Set(board().tasks.map((t) => t[key]).filter(Boolean))).sort().map((v) => [v, words(v)]);
    const options = [["", key === "family" ? "all" : "any"], ...(fixedOptions.length ? fixedOptions : inData())];
    for (const [value, text] of options) select.append(make("option", text, { value: value }));
    const tasks = ["family", "organ"].includes(key) ? { tasks: null } : {};
    select.addEventListener("change", () => change({ [key]: select.value, ...tasks }));
    inputs[key] = select;
    return select;
  }
  function tick(text, key, read, act) {
    const label = make("label", null, { class: "tick" });
    const box = make("input", null, { type: "checkbox", "data-tick": key });
    box.addEventListener("change", () => act(box.checked));
    box.read = read;
    label.append(box, make("span", text));
    return label;
  }
  function columnPicker() {
    const box = make("details", null, { id: "columns" });
    const picks = make("div", null, { class: "picks" });
    const flip = (key) => (on) => change({ hide: on ? state.hide.filter((k) => k !== key) : [...state.hide, key] });
    const pick = (key, text) => picks.append(tick(text, "column:" + key, () => !state.hide.includes(key), flip(key)));
    for (const column of board().columns) if (column.key !== "encoder") pick(column.key, column.head);
    for (const [part, text] of CELL_PARTS) pick("cell:" + part, text);
    box.append(make("summary", "Columns"), picks);
    return box;
  }
  function taskPicker() {
    const box = make("details", null, { id: "tasks" });
    box.append(make("summary", "Tasks"));
    const bar = make("div", null, { class: "bar" });
    bar.append(
      button("All " + (board().track || "core") + " tasks", () => change({ tasks: null, family: "", organ: "" })),
      ...(board().track === "own" ? [] : [button("Core tasks on available cohorts", () => pickTasks(openTasks()))]),
      button("No task", () => pickTasks([])));
    const families = make("div", null, { class: "families" });
    for (const family of board().families) families.append(familyTasks(family));
    box.append(bar, families);
    return box;
  }
  function familyTasks(family) {
    const set = make("fieldset");
    set.append(make("legend", words(family)));
    const picks = make("div", null, { class: "picks" });
    const members = board().tasks.filter((t) => t.family === family);
    for (const task of members) {
      const flip = (on) => pickTasks(on ? [...chosen(), task.id] : chosen().filter((id) => id !== task.id));
      picks.append(tick(task.id + (task.ranked ? "" : task.core ? " (too few cases)" : " (extra)"), "task:" + task.id, () => chosen().includes(task.id), flip));
    }
    set.append(picks);
    return set;
  }
  function openTasks() {
    return board().tasks.filter((t) => t.ranked && t.access !== "private").map((t) => t.id);
  }
  function pickTasks(ids) {
    Object.assign(state, { family: "", organ: "" });
    setTasks(board().tasks.map((t) => t.id).filter((id) => ids.includes(id)));
    change({});
  }
  function syncControls() {
    for (const [key, field] of Object.entries(inputs)) if (field.value !== state[key]) field.value = state[key];
    for (const box of controls.querySelectorAll("[data-tick]")) box.checked = box.read();
  }

  // ---- CSV -------------------------------------------------------------------------------------

  function csvField(value) {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    // A spreadsheet runs text that starts like a formula; an apostrophe keeps it text.
    const safe = /^\s*[=+\-@\t\r\n]/.test(value) ? "'" + value : value;
    return /[",\n\r]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  }
  function csvColumns() {
    const result = [];
    for (const { key } of board().columns) {
      if (state.hide.includes(key)) continue;
      if (key === "rank") result.push(["rank", (e, own) => own.rank], ...ends("rank_ci95", (e) => e && e.rank_ci95));
      else if (key === "intervals") result.push(...ends("mean_ci95_cases", (e) => e && e.mean.ci95_cases), ...ends("mean_ci95", (e) => e && e.mean.ci95));
      else if (key === "gain") result.push(["gain", (e, own) => sortValue(e, own, key)], ...ends("gain_ci95_cases", (e) => e && e.gain && e.gain.ci95_cases), ...ends("gain_ci95", (e) => e && e.gain && e.gain.ci95));
      else if (key === "contamination" || key === "verification") result.push([key, (e) => csvState(e, key)]);
      else if (TEXT_COLUMNS.includes(key) && key !== "encoder") result.push([key, (e, own) => sortValue(e, own, key) ?? "unknown"]);
      else result.push([key, (e, own) => sortValue(e, own, key)]);
    }
    return result;
  }
  function ends(name, read) {
    const at = (i) => (e) => { const pair = read(standingOf(e)); return pair ? pair[i] : null; };
    return [[name + "_low", at(0)], [name + "_high", at(1)]];
  }
  function csvState(encoder, key) {
    if (key === "verification") return encoder.verification;
    const states = Object.values(encoder.cells).map((cell) => cell.contamination);
    return ["contaminated", "unknown", "clean"].map((s) => s + " " + states.filter((x) => x === s).length).join("; ");
  }
  function csvText() {
    const source = board().phantom ? "PHANTOM (synthetic data)" : "real data";
    const tasks = shownTasks();
    const head = csvColumns();
    const names = tasks.flatMap((t) => [t.id, t.id + "_ci95_low", t.id + "_ci95_high", t.id + "_contamination"]);
    const lines = [["data", "board", "unranked", ...head.map(([name]) => name), ...names]];
    for (const row of ordered(numbers()).filter((r) => r.shown)) {
      const scores = tasks.flatMap((t) => {
        const cell = cellOf(row.encoder, t.id);
        return cell ? [cell.value, ...(cell.ci95 || [null, null]), cell.contamination] : [null, null, null, null];
      });
      lines.push([source, board().key, whyNot(row.encoder, row.own), ...head.map(([, read]) => read(row.encoder, row.own)), ...scores]);
    }
    return lines.map((line) => line.map(csvField).join(",")).join("\r\n") + "\r\n";
  }
  function download() {
    const place = URL.createObjectURL(new Blob([csvText()], { type: "text/csv" }));
    const name = (board().phantom ? "PHANTOM-" : "") + board().key.replace("/", "-").replace("/", "-") + ".csv";
    const link = make("a", null, { href: place, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(place), 1000);
  }

  // ---- pins and their comparison ---------------------------------------------------------------

  function togglePin(label) {
    const pins = state.pins.includes(label) ? state.pins.filter((l) => l !== label) : [...state.pins, label];
    if (pins.length <= MOST_PINS) return change({ pins: pins });
    change({});
    statusLine.textContent = "At most " + MOST_PINS + " encoders can be compared: remove one first.";
  }
  // Numbers and sentences are those of `mbench compare`, computed with the page.
  function comparison(rows) {
    const box = view().section.querySelector("[data-compare]");
    box.replaceChildren();
    const pinned = rows.filter((row) => state.pins.includes(row.encoder.label)).sort((a, b) => a.index - b.index).map((row) => row.encoder);
    box.hidden = pinned.length < 2;
    if (box.hidden) return;
    const pairs = pinned.flatMap((first, i) => pinned.slice(i + 1).map((second) => ({ first: first, second: second })));
    const head = make("header");
    head.append(make("h3", "Comparison of " + pinned.map((e) => e.label).join(", ")), button("Close the comparison", () => change({ pins: [] })));
    const place = make("div", "Loading the paired differences.", { role: "status" });
    box.append(head, place);
    const asked = state;
    const labels = state.pins;
    Promise.all(pinned.slice(0, -1).map(load)).then(() => {
      if (asked !== state || labels !== state.pins) return;
      const tables = pairs.map(pairOf);
      place.removeAttribute("role");
      place.replaceChildren();
      const shown = make("div");
      if (pairs.length > 1) place.append(region("Pairs", pairTable(tables, (pair) => { shown.replaceChildren(...pairView(pair)); })));
      shown.append(...pairView(tables[0]));
      place.append(shown);
      const tasks = shownTasks();
      if (tasks.length) place.append(region("Scores of the compared encoders", comparisonChart(pinned, tasks)));
    }, () => { place.textContent = "The paired differences could not be loaded from the folder 'details' beside this page. Run: mbench compare " + pinned[0].name + " " + pinned[1].name; });
  }
  function load(encoder) {
    const name = board().id + "/" + encoder.slug;
    if (details.has(name)) return Promise.resolve(details.get(name));
    return new Promise((resolve, reject) => {
      const script = make("script", null, { src: "details/" + board().where + "/" + encoder.slug + ".js" });
      script.addEventListener("load", () => (details.has(name) ? resolve(details.get(name)) : reject()));
      script.addEventListener("error", reject);
      document.head.append(script);
    });
  }
  function pairOf({ first, second }) {
    const content = details.get(board().id + "/" + first.slug);
    const of = (list) => list.find((pair) => pair.second === second.label) || null;
    return { first: first, second: second, tasks: of(content.comparisons), over: of(content.pairs) };
  }
  function region(label, node) {
    const box = make("div", null, { class: "scroll", role: "region", tabindex: "0", "aria-label": label });
    box.append(node);
    return box;
  }
  function tableOf(caption, heads) {
    const table = make("table");
    table.append(make("caption", caption));
    const head = table.createTHead().insertRow();
    for (const text of heads) head.append(make("th", text, { scope: "col" }));
    table.createTBody();
    return table;
  }
  function addRow(table, first, texts) {
    const row = table.tBodies[0].insertRow();
    const head = make("th", null, { scope: "row" });
    head.append(first);
    row.append(head, ...texts.map((text) => make("td", text)));
    return row;
  }
  function pairTable(pairs, show) {
    const table = tableOf("Pairs. The mean difference is over families, on all ranked tasks; p is adjusted for all pairs of the board (Holm).", ["Pair", "Mean difference", "p (Holm)", "Significantly higher", "Tasks won, tied, lost", "Tasks significantly higher, lower"]);
    for (const pair of pairs) {
      const over = pair.over;
      const rows = pair.tasks ? Object.values(pair.tasks.tasks) : [];
      const higher = (label) => rows.filter((row) => row[3] === label).length;
      addRow(table, button(pair.first.label + " against " + pair.second.label, () => show(pair)), over ? [
        signed(over.mean), pValue(over.p_holm), over.better ? pair.first.label : "not significant", [over.wins, over.ties, over.losses].join(", "), higher(pair.first.label) + ", " + higher(pair.second.label),
      ] : [DASH, DASH, "not tested: one is not ranked", DASH, higher(pair.first.label) + ", " + higher(pair.second.label)]);
    }
    return table;
  }
  function pValue(p) { return p < 0.001 ? "<0.001" : fixed(p, 3); }
  function pairView(pair) {
    const names = pair.first.label + " and " + pair.second.label;
    if (!pair.tasks) return [make("p", "No task has predictions of both " + names + ".")];
    const table = tableOf("Paired differences of " + names + ": the same patients are resampled for both encoders; p is adjusted for the number of tasks (Holm).", ["Task", "Metric", pair.first.label, pair.second.label, "Difference", "95% CI", "", "p (Holm)", "Significantly higher"]);
    const rows = shownTasks().filter((t) => own(pair.tasks.tasks, t.id)).map((t) => [t, differenceOf(pair.tasks.tasks[t.id])]);
    const most = Math.max(0.01, ...rows.flatMap(([, d]) => [d.difference, ...(d.ci95 || [])]).map(Math.abs));
    for (const [task, d] of rows) {
      const score = (encoder) => { const cell = cellOf(encoder, task.id); return fixed(cell.value, 3) + (cell.ci95 ? " (" + span(cell.ci95, 3) + ")" : ""); };
      const texts = [words(task.metric), score(pair.first), score(pair.second), signed(d.difference), d.ci95 ? span(d.ci95, 3) : "too few cases", "", pValue(d.p_holm), d.higher || "not significant"];
      const row = addRow(table, task.id, texts);
      row.cells[6].append(differenceStrip(d, most));
      row.classList.toggle("significant", Boolean(d.higher));
    }
    const said = make("ul");
    for (const line of [...pair.tasks.conclusions, ...pair.tasks.left_out]) said.append(make("li", line));
    return [region("Paired differences of " + names, table), said];
  }
  function differenceOf([difference, ci95, p, higher]) { return { difference: difference, ci95: ci95, p_holm: p, higher: higher }; }
  function differenceStrip(d, most) {
    const x = (v) => 75 + v / most * 70;
    const svg = draw("svg", { viewBox: "0 0 150 18", width: 150, height: 18, class: "strip", "aria-hidden": "true" });
    svg.append(draw("line", { x1: 75, x2: 75, y1: 0, y2: 18, class: "baseline" }));
    if (d.ci95) svg.append(draw("line", { x1: x(d.ci95[0]), x2: x(d.ci95[1]), y1: 9, y2: 9, class: "thin" }));
    svg.append(draw("circle", { cx: x(d.difference), cy: 9, r: 4, class: d.higher ? "dot" : "dot hollow" }));
    return svg;
  }
  const SHAPES = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z", "M-4-4H4V4H-4Z", "M0-5L5 4H-5Z",
    "M0-5L5 0L0 5L-5 0Z", "M0 5L5-4H-5Z", "M-5-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z",
  ];
  function comparisonChart(pinned, tasks) {
    const gap = 9 * pinned.length + 12, left = 190, width = 760, top = 22 + 18 * Math.ceil(pinned.length / 3);
    const values = tasks.flatMap((t) => pinned.map((e) => cellOf(e, t.id)).filter(Boolean).flatMap((c) => [...(c.ci95 || []), c.value])).concat(tasks.map((t) => t.chance));
    const low = Math.min(0, ...values), high = Math.max(1, ...values);
    const x = (v) => left + (v - low) / (high - low) * (width - left - 20);
    const height = top + gap * tasks.length + 26;
    const svg = draw("svg", { viewBox: "0 0 " + width + " " + height, width: width, height: height, role: "img", class: "figure" });
    svg.append(draw("title", {}, "Scores with 95% confidence intervals of " + pinned.map((e) => e.label).join(", ")));
    for (let i = 0; i <= 10; i += 2) axisTick(svg, x, i / 10, top, height - 22);
    pinned.forEach((encoder, i) => key(svg, encoder.label, i, 10 + (i % 3) * 250, 12 + 18 * Math.floor(i / 3)));
    tasks.forEach((task, i) => taskRow(svg, task, pinned, x, top + gap * i, gap));
    return svg;
  }
  function axisTick(svg, x, value, top, bottom) {
    svg.append(draw("line", { x1: x(value), x2: x(value), y1: top, y2: bottom, class: "grid" }));
    svg.append(draw("text", { x: x(value), y: bottom + 14, "text-anchor": "middle", class: "tick" }, value.toFixed(1)));
  }
  function key(svg, label, i, x, y) {
    const group = draw("g", { class: "p" + i });
    group.append(draw("path", { d: SHAPES[i], transform: "translate(" + x + " " + y + ")" }));
    svg.append(group, draw("text", { x: x + 12, y: y + 4 }, label.length > 30 ? label.slice(0, 29) + "\u2026" : label));
  }
  function taskRow(svg, task, pinned, x, top, gap) {
    svg.append(draw("line", { x1: 0, x2: 760, y1: top, y2: top, class: "grid" }));
    svg.append(draw("text", { x: 180, y: top + gap / 2 + 4, "text-anchor": "end" }, task.id));
    svg.append(draw("line", { x1: x(task.chance), x2: x(task.chance), y1: top, y2: top + gap, class: "baseline" }));
    pinned.forEach((encoder, i) => {
      const cell = cellOf(encoder, task.id);
      if (!cell) return;
      const y = top + 10 + 9 * i;
      const group = draw("g", { class: "p" + i });
      if (cell.ci95) group.append(draw("line", { x1: x(cell.ci95[0]), x2: x(cell.ci95[1]), y1: y, y2: y }));
      group.append(draw("path", { d: SHAPES[i], transform: "translate(" + x(cell.value) + " " + y + ")" }));
      svg.append(group);
    });
  }
  // ---- one score in full -----------------------------------------------------------------------

  function openDrill(encoder, task, from) {
    openedFrom = from;
    const head = make("header");
    head.append(make("h2", encoder.label + " on " + task.id, { id: "drill-title" }));
    const close = button("Close", () => drill.close());
    close.autofocus = true;
    head.append(close);
    const place = make("div", "Loading the details of this score.");
    drill.replaceChildren(head, make("p", task.title, { class: "lead" }), place);
    drill.showModal();
    drill.scrollTop = 0;
    load(encoder).then((content) => {
      const cell = content.cells[task.id];
      place.replaceChildren(sheetOf(scoreFacts(task, cell)), make("h3", "Folds"), foldTable(cell), make("h3", "Provenance"));
      place.append(sheetOf([...Object.entries(cell.hashes), ["record", cell.record_id]]));
      place.append(make("pre", JSON.stringify(cell.provenance, null, 1), { tabindex: "0", "aria-label": "Provenance" }));
      place.append(...recordBox(encoder, task, cell));
    }, () => { place.textContent = "The details could not be loaded from the folder 'details' beside this page; they stand on the page of the encoder."; });
  }
  function scoreFacts(task, cell) {
    const missing = Object.entries(cell.missing).map(([reason, n]) => n + " " + reason).join("; ") || "none";
    const others = Object.entries(cell.secondary).map(([name, v]) => words(name) + " " + secondary(name, v)).join("; ") || "none";
    return [
      [words(task.metric), fixed(cell.value, 3)], ["95% confidence interval", cell.ci95 ? span(cell.ci95, 3) : "none"], ["Method", cell.method],
      ["Chance-corrected", fixed(cell.corrected, 3) + " (chance " + fixed(cell.chance, 2) + ")"], ["n", String(cell.n)],
      ["Missing", missing], ["Status", words(cell.status) + (cell.comparable ? "" : "; scored on other data or features than the other encoders")],
      ["Secondary metrics", others], ["Protocol", cell.protocol], ["Dimension", String(cell.dim)],
      ["Contamination", words(cell.contamination)],
      ["Verification", words(cell.verification)],
    ];
  }
  function sheetOf(pairs) {
    const list = make("dl", null, { class: "sheet" });
    for (const [name, value] of pairs) list.append(make("dt", name), make("dd", value));
    return list;
  }
  function foldTable(cell) {
    const table = tableOf("Folds", ["Fold", "Score", "Train", "Test", "Converged", "Remark"]);
    for (const fold of cell.folds) {
      addRow(table, Object.entries(fold.key).map(([k, v]) => k + " " + v).join(", "), [
        fixed(fold.value, 3), fold.n_train, fold.n_test, fold.converged ? "yes" : "no", [fold.reason, fold.flag].filter(Boolean).join("; "),
      ]);
    }
    return region("Folds", table);
  }
  function recordBox(encoder, task, cell) {
    const record = { board: board().key, phantom: board().phantom, encoder: encoder.label, task: task.id, ...cell };
    const text = make("textarea", JSON.stringify(record, null, 1), { readonly: "", id: "record-json", "aria-label": "The record as JSON" });
    const said = make("span", "", { role: "status" });
    const copy = button("Copy the record", () => {
      copyText(text).then((done) => { said.textContent = done ? " Copied." : " Select the text and copy it."; });
    });
    const line = make("p");
    line.append(copy, said);
    return [make("h3", "The record as JSON"), text, line];
  }
  async function copyText(field) {
    try { await navigator.clipboard.writeText(field.value); return true; } catch (refused) {
      field.select();
      return document.execCommand("copy");
    }
  }

  // ---- what a heading means --------------------------------------------------------------------

  function showTip(th) {
    const target = document.getElementById(th.dataset.about);
    if (!target) return;
    tip.textContent = target.tagName === "TR" ? taskSaid(target) : target.textContent;
    tip.hidden = false;
    const place = th.getBoundingClientRect();
    const left = Math.min(Math.max(8, place.left), window.innerWidth - tip.offsetWidth - 8);
    const above = place.top - tip.offsetHeight - 4;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (above > 0 ? above : place.bottom + 4) + "px";
  }
  function taskSaid(row) {
    return Array.from(row.cells).slice(1).map((cell) => cell.textContent).join("; ");
  }
  function hideTip() { tip.hidden = true; }
  function explain(th) {
    th.addEventListener("mouseenter", () => showTip(th));
    th.addEventListener("mouseleave", hideTip);
    th.addEventListener("focusin", () => showTip(th));
    th.addEventListener("focusout", hideTip);
  }

  // ---- start -----------------------------------------------------------------------------------

  function sortBy(key) {
    const text = TEXT_COLUMNS.includes(key);
    const lowFirst = text || ["rank", "letters", "mean_rank", "parameters", "seconds", "dim", "contamination"].includes(key);
    const first = lowFirst ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    change({ sort: key, dir: state.sort === key && state.dir === first ? other : first });
  }
  function wireHeadings(section) {
    for (const th of section.querySelectorAll("[data-table] thead [data-col]")) {
      const label = th.querySelector(".label");
      const sort = make("button", label.textContent, { type: "button", class: "sort", "aria-describedby": th.dataset.about });
      sort.addEventListener("click", () => sortBy(th.dataset.col));
      label.replaceChildren(sort);
      explain(th);
    }
  }
  function wireRows(index) {
    const content = boards[index];
    for (const { row } of views[index].rows.main) {
      const encoder = content.encoders[Number(row.dataset.encoder)];
      const pin = make("input", null, { type: "checkbox", class: "pin", "aria-label": "Compare " + encoder.label });
      pin.addEventListener("change", () => togglePin(encoder.label));
      row.querySelector("th").prepend(pin);
    }
    const heat = views[index].section.querySelector('[data-table="heat"]');
    heat.addEventListener("click", (event) => {
      const link = event.target.closest("a.cell");
      if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      const encoder = content.encoders[Number(link.closest("tr").dataset.encoder)];
      openDrill(encoder, content.tasks[Number(link.closest("td").dataset.task)], link);
    });
  }
  function wireBoards() {
    for (const link of document.querySelectorAll("a[data-board]")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const pins = state.pins;
        state = blank(Number(link.dataset.board));
        state.pins = pins.filter((label) => board().encoders.some((e) => e.label === label));
        buildControls();
        change({});
      });
    }
  }
  function begin() {
    restore();
    sections.forEach(wireHeadings);
    boards.forEach((_, index) => wireRows(index));
    wireBoards();
    buildControls();
    refresh();
    drill.addEventListener("close", () => { drill.replaceChildren(); if (openedFrom) openedFrom.focus(); openedFrom = null; });
    drill.addEventListener("click", (event) => { if (event.target === drill) drill.close(); });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
    window.addEventListener("scroll", hideTip, { passive: true });
    window.addEventListener("hashchange", () => { if (restore()) { buildControls(); refresh(); } });
    document.documentElement.classList.add("scripted");
  }
  begin();
})();
