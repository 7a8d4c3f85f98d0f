"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const count = data.names.length;
  const decoded = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const scores = new Float64Array(decoded(data.scores));
  const score = (row, column) => scores[row * count + column];
  const images = data.images && { counts: new Uint32Array(decoded(data.images.counts)), errors: new Float64Array(decoded(data.images.errors)) };
  document.documentElement.classList.add("script");

  // Light and dark: what the system says, until the button is pressed.
  const root = document.documentElement;
  find("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // What the pointer or the cursor is on.
  const tip = find("tip");
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (y + tip.offsetHeight + 30 > innerHeight ? y - tip.offsetHeight - 12 : y + 16) + "px";
  };
  const hide = () => { tip.hidden = true; };

  // Groups of networks: clusters, or the values of a component.
  const groupsOf = (choice) => {
    if (choice.startsWith("component-")) {
      const column = Number(choice.slice("component-".length));
      const values = data.components.rows.map((row) => row[column]);
      const frequency = new Map();
      values.forEach((value) => frequency.set(value, (frequency.get(value) || 0) + 1));
      const names = [...frequency.keys()].sort((a, b) => frequency.get(b) - frequency.get(a) || a.localeCompare(b));
      return { names, of: values.map((value) => names.indexOf(value)) };
    }
    const clusters = data.clusters || data.names.map(() => 0);
    const names = [...new Set(clusters)].sort((a, b) => a - b).map((cluster) => "cluster " + (cluster + 1));
    return { names, of: clusters };
  };

  // Heat map.
  const map = find("heat-map");
  const box = find("heat-map-box");
  const { cell, margin } = data.layout;
  let order = data.orders.cluster.slice();
  let groups = groupsOf("cluster").of;
  const byGroup = (of) => {
    const place = [];
    data.orders.dendrogram.forEach((network, index) => { place[network] = index; });
    return data.names.map((_, network) => network).sort((a, b) => of[a] - of[b] || place[a] - place[b]);
  };
  const chosen = (choice) => {
    const all = data.names.map((_, network) => network);
    if (choice === "name") return [all.sort((a, b) => data.names[a].localeCompare(data.names[b])), null];
    if (choice === "matrix") return [all, null];
    if (choice === "dendrogram") return [data.orders.dendrogram.slice(), null];
    const of = groupsOf(choice).of;
    return [choice === "cluster" ? data.orders.cluster.slice() : byGroup(of), of];
  };
  const share = (value) => (data.range[1] > data.range[0] ? (value - data.range[0]) / (data.range[1] - data.range[0]) : 0.5);
  const draw = () => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = count;
    const context = canvas.getContext("2d");
    const image = context.createImageData(count, count);
    for (let row = 0; row < count; row++) {
      for (let column = 0; column < count; column++) {
        const value = score(order[row], order[column]);
        const level = Math.round(255 * Math.max(0, Math.min(1, share(value))));
        const colour = Number.isNaN(value) ? [204, 204, 204] : data.scale[level];
        image.data.set([...colour, 255], 4 * (row * count + column));
      }
    }
    context.putImageData(image, 0, 0);
    map.querySelector("image").setAttribute("href", canvas.toDataURL());
    const place = [];
    order.forEach((network, index) => { place[network] = margin + cell * (index + 0.5); });
    map.querySelectorAll("text.row").forEach((text) => {
      text.setAttribute("transform", `translate(${margin - 6} ${place[text.dataset.network]})`);
    });
    map.querySelectorAll("text.column").forEach((text) => {
      text.setAttribute("transform", `translate(${place[text.dataset.network]} ${margin - 6}) rotate(-90)`);
    });
    map.querySelectorAll("text.score").forEach((text, index) => {
      const value = score(order[Math.floor(index / count)], order[index % count]);
      text.textContent = Number.isNaN(value) ? "–" : value.toFixed(2);
      text.setAttribute("fill", share(value) > 0.45 ? "white" : "black");
    });
    let lines = "";
    for (let index = 1; groups && index < count; index++) {
      if (groups[order[index]] !== groups[order[index - 1]]) {
        const at = margin + cell * index;
        lines += `M${at} ${margin}v${cell * count}M${margin} ${at}h${cell * count}`;
      }
    }
    map.querySelector("path.lines").setAttribute("d", lines);
  };
  find("order").addEventListener("change", (event) => {
    [order, groups] = chosen(event.target.value);
    draw();
  });

  const full = Number(map.getAttribute("width"));
  const ratio = Number(map.getAttribute("height")) / full;
  let zoom = 0;
  const fit = () => Math.min(full, box.clientWidth);
  const resize = () => {
    const width = fit() * Math.pow(1.5, zoom);
    map.style.width = width + "px";
    map.style.height = width * ratio + "px";
  };
  const zoomBy = (steps) => {
    const before = map.clientWidth;
    const [x, y] = [box.scrollLeft + box.clientWidth / 2, box.scrollTop + box.clientHeight / 2];
    zoom = steps === 0 ? 0 : Math.max(-2, Math.min(8, zoom + steps));
    resize();
    const factor = map.clientWidth / before;
    box.scrollTo(x * factor - box.clientWidth / 2, y * factor - box.clientHeight / 2);
  };
  find("larger").addEventListener("click", () => zoomBy(1));
  find("smaller").addEventListener("click", () => zoomBy(-1));
  find("whole").addEventListener("click", () => zoomBy(0));
  addEventListener("resize", resize);
  resize();

  const cursor = document.createElementNS(SVG, "rect");
  cursor.id = "cursor";
  cursor.setAttribute("visibility", "hidden");
  map.append(cursor);
  let at = null;
  const describe = (row, column) => {
    const [a, b] = [order[row], order[column]];
    const value = score(a, b);
    let known = "";
    if (images) {
      const [n, half] = [images.counts[a * count + b], 1.96 * images.errors[a * count + b]];
      known = (Number.isNaN(half) ? "" : ` [${(value - half).toFixed(3)}, ${(value + half).toFixed(3)}]`) + `, n = ${n}`;
    }
    const cluster = data.clusters ? ` (clusters ${data.clusters[a] + 1} and ${data.clusters[b] + 1})` : "";
    return `${data.names[a]} – ${data.names[b]}: ${Number.isNaN(value) ? "no score" : value.toFixed(3)}${known}${cluster}`;
  };
  const point = (row, column) => {
    at = [row, column];
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x", margin + cell * column);
    cursor.setAttribute("y", margin + cell * row);
    cursor.setAttribute("width", cell);
    cursor.setAttribute("height", cell);
  };
  map.addEventListener("pointermove", (event) => {
    const bounds = map.getBoundingClientRect();
    const scale = full / bounds.width;
    const column = Math.floor(((event.clientX - bounds.left) * scale - margin) / cell);
    const row = Math.floor(((event.clientY - bounds.top) * scale - margin) / cell);
    if (row < 0 || column < 0 || row >= count || column >= count) {
      hide();
      cursor.setAttribute("visibility", "hidden");
      return;
    }
    point(row, column);
    show(describe(row, column), event.clientX, event.clientY);
  });
  map.addEventListener("pointerleave", () => { hide(); cursor.setAttribute("visibility", "hidden"); });
  box.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (moves[event.key]) {
      const [row, column] = at || [0, -1];
      const limit = (value) => Math.max(0, Math.min(count - 1, value));
      point(limit(row + moves[event.key][0]), limit(column + moves[event.key][1]));
      const bounds = cursor.getBoundingClientRect();
      show(describe(...at), bounds.right, bounds.bottom);
    } else if (event.key === "+" || event.key === "=") zoomBy(1);
    else if (event.key === "-") zoomBy(-1);
    else if (event.key === "0") zoomBy(0);
    else if (event.key === "Escape") { hide(); at = null; cursor.setAttribute("visibility", "hidden"); }
    else return;
    event.preventDefault();
  });
  box.addEventListener("blur", hide);

  // The heat maps beside it, of which the pointer reads the cells.
  for (const { id, names, scores, order, layout } of data.beside) {
    const figure = find(id);
    const values = new Float64Array(decoded(scores));
    figure.addEventListener("pointermove", (event) => {
      const bounds = figure.getBoundingClientRect();
      const scale = Number(figure.getAttribute("width")) / bounds.width;
      const place = (pixel, start) => Math.floor(((pixel - start) * scale - layout.margin) / layout.cell);
      const [a, b] = [order[place(event.clientY, bounds.top)], order[place(event.clientX, bounds.left)]];
      if (a === undefined || b === undefined) {
        hide();
        return;
      }
      const value = values[a * names.length + b];
      show(`${names[a]} – ${names[b]}: ${Number.isNaN(value) ? "no score" : value.toFixed(3)}`, event.clientX, event.clientY);
    });
    figure.addEventListener("pointerleave", hide);
  }

  // The matrix in the order that is shown, as netkin writes it.
  const field = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const csv = () => {
    const number = (value) => (Number.isNaN(value) ? "" : value.toFixed(9));
    const rows = order.map((a) => [field(data.names[a]), ...order.map((b) => number(score(a, b)))].join(","));
    return [["", ...order.map((network) => field(data.names[network]))].join(","), ...rows].join("\n") + "\n";
  };
  const copied = (event, done) => {
    const button = event.target;
    button.textContent = done ? "Copied" : "Could not copy";
    setTimeout(() => { button.textContent = "Copy as CSV"; }, 1500);
  };
  find("copy").addEventListener("click", (event) => {
    const text = csv();
    const byHand = () => {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      copied(event, done);
    };
    // Pages from disk may have no clipboard.
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => copied(event, true), byHand);
    else byHand();
  });

  // Map of the networks.
  const marks = [...document.querySelectorAll(".mark")];
  const kind = find("map-kind");
  const colour = find("map-colour");
  const legend = find("legend");
  const paint = () => {
    const { names, of } = groupsOf(colour.value || "cluster");
    const mark = (group) => [data.colours[group % data.colours.length], data.shapes[group % data.shapes.length]];
    marks.forEach((element) => {
      const network = Number(element.dataset.network);
      const path = element.querySelector("path");
      const [fill, shape] = mark(of[network]);
      path.setAttribute("fill", fill);
      path.setAttribute("d", shape);
      const [x, y] = data.maps[kind.value][network];
      element.setAttribute("transform", `translate(${x} ${y})`);
    });
    legend.replaceChildren(...names.map((name, group) => {
      const [fill, shape] = mark(group);
      const item = document.createElement("li");
      const icon = document.createElementNS(SVG, "svg");
      icon.setAttribute("viewBox", "-7 -7 14 14");
      icon.setAttribute("width", "14");
      icon.setAttribute("height", "14");
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", shape);
      path.setAttribute("fill", fill);
      icon.append(path);
      item.append(icon, `${name} (${of.filter((other) => other === group).length})`);
      const dim = (on) => marks.forEach((element) => {
        element.classList.toggle("faint", on && of[Number(element.dataset.network)] !== group);
      });
      item.addEventListener("pointerenter", () => dim(true));
      item.addEventListener("pointerleave", () => dim(false));
      return item;
    }));
  };
  marks.forEach((element) => {
    const network = Number(element.dataset.network);
    const text = () => {
      const value = colour.value.startsWith("component-") ? groupsOf(colour.value) : null;
      const more = value ? `: ${value.names[value.of[network]]}` : data.clusters ? `: cluster ${data.clusters[network] + 1}` : "";
      return data.names[network] + more;
    };
    element.querySelector("title").remove();
    element.setAttribute("tabindex", "0");
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", data.names[network]);
    const at = () => { const box = element.getBoundingClientRect(); show(text(), box.right, box.top); };
    element.addEventListener("pointerenter", at);
    element.addEventListener("focus", at);
    element.addEventListener("pointerleave", hide);
    element.addEventListener("blur", hide);
  });
  kind.addEventListener("change", paint);
  colour.addEventListener("change", paint);
  paint();
})();
