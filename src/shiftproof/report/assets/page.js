"use strict";
(function () {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  }
  function label() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Show the page on a " + (isDark() ? "light" : "dark") + " ground");
  }
  button.hidden = false;
  button.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();

  const source = document.getElementById("data");
  const data = source ? JSON.parse(source.textContent) : null;
  if (!data || !data.pictures) return;

  function nameOf(number) {
    return number === null ? "no answer" : data.names[number] || "class " + number;
  }
  function shown(value) {
    return value.toFixed(value && value < 0.01 ? 3 : 2);
  }
  function answer(picture, number, value) {
    const found = data.pictures[picture];
    const colour = number === null ? 5 : found.colours[number];
    let text = nameOf(number);
    if (value !== null && number === found.reference) text += " " + shown(value);
    else if (value !== null) text += " (" + nameOf(found.reference) + " " + shown(value) + ")";
    const swatch = document.createElement("span");
    swatch.className = "swatch k" + colour;
    swatch.style.display = "inline-block";
    swatch.style.marginRight = "6px";
    return [swatch, text];
  }
  function where(dy, dx) {
    const parts = [];
    if (dy) parts.push(Math.abs(dy) + " px " + (dy > 0 ? "down" : "up"));
    if (dx) parts.push(Math.abs(dx) + " px " + (dx > 0 ? "right" : "left"));
    return parts.length ? parts.join(", ") : "not moved";
  }

  // The window over a picture: an image that is larger than what shows it.
  function Viewer(element, picture) {
    const side = data.pictures[picture].side;
    const size = data.size;
    const image = element.querySelector("img");
    let tiles = null;
    function put(target, dy, dx) {
      const middle = (side - size) / 2;
      target.style.left = (-100 * (middle + dx)) / size + "%";
      target.style.top = (-100 * (middle + dy)) / size + "%";
    }
    this.crop = function (dy, dx) {
      if (tiles) tiles.forEach(function (tile) { tile.hidden = true; });
      image.hidden = false;
      put(image, dy, dx);
    };
    this.circle = function (dy, dx) {
      if (!tiles) {
        tiles = [0, 1, 2, 3].map(function () {
          const tile = document.createElement("div");
          const copy = image.cloneNode();
          tile.className = "tile";
          copy.hidden = false;
          put(copy, 0, 0);
          tile.appendChild(copy);
          element.appendChild(tile);
          return tile;
        });
      }
      image.hidden = true;
      const y = ((dy % size) + size) % size;
      const x = ((dx % size) + size) % size;
      tiles.forEach(function (tile, index) {
        tile.hidden = false;
        tile.style.left = (100 * (size * (index % 2) - x)) / size + "%";
        tile.style.top = (100 * (size * (index >> 1) - y)) / size + "%";
      });
    };
  }

  document.querySelectorAll(".pan").forEach(function (pan) {
    const picture = Number(pan.dataset.picture);
    const viewer = new Viewer(pan.querySelector(".view"), picture);
    const strips = data.strips.map(function (list) { return list[picture] || null; });
    const first = strips.find(Boolean);
    if (!first) return;
    const slider = pan.querySelector(".slider");
    const input = slider.querySelector("input");
    const output = slider.querySelector("output");
    slider.hidden = false;
    input.min = first.shifts[0];
    input.max = first.shifts[first.shifts.length - 1];
    function show() {
      const dx = Number(input.value);
      const place = first.shifts.indexOf(dx);
      viewer.crop(0, dx);
      output.textContent = where(0, dx);
      input.setAttribute("aria-valuetext", where(0, dx));
      pan.querySelectorAll(".strip").forEach(function (figure) {
        const strip = strips[Number(figure.dataset.network)];
        if (!strip) return;
        const head = figure.querySelector(".head");
        head.hidden = false;
        head.style.left = (100 * place) / first.shifts.length + "%";
        head.style.width = 100 / first.shifts.length + "%";
        const now = figure.querySelector(".now");
        now.replaceChildren.apply(now, answer(picture, strip.classes[place], strip.probabilities[place]));
      });
    }
    input.value = 0;
    input.addEventListener("input", show);
    pan.querySelectorAll(".frames").forEach(function (frames) {
      frames.style.cursor = "ew-resize";
      frames.style.touchAction = "pan-y";
      frames.addEventListener("pointermove", function (event) {
        const box = frames.getBoundingClientRect();
        const place = Math.floor(((event.clientX - box.left) / box.width) * first.shifts.length);
        input.value = first.shifts[Math.max(0, Math.min(first.shifts.length - 1, place))];
        show();
      });
    });
    show();
  });

  document.querySelectorAll(".picture").forEach(function (article) {
    const picture = Number(article.dataset.picture);
    const viewer = new Viewer(article.querySelector(".mapping .view"), picture);
    const readout = article.querySelector(".readout");
    const maps = Array.from(article.querySelectorAll(".map")).map(function (figure) {
      const cells = figure.querySelector(".cells");
      const network = Number(figure.dataset.network);
      const found = cells && data.maps[network].find(function (one) {
        return one.picture === picture && one.motion === figure.dataset.motion;
      });
      return { cells: cells, network: network, motion: figure.dataset.motion, found: found };
    }).filter(function (map) { return map.found; });
    if (!maps.length) return;

    function show(motion, row, column) {
      const same = maps.filter(function (map) { return map.motion === motion; });
      const shifts = same[0].found.shifts;
      const dy = shifts[row];
      const dx = shifts[column];
      if (motion === "crop") viewer.crop(dy, dx); else viewer.circle(dy, dx);
      const title = document.createElement("strong");
      title.textContent = where(dy, dx) + (motion === "crop" ? "" : ", around the circle");
      const lines = [title];
      maps.forEach(function (map) {
        const cursor = map.cells.querySelector(".cursor");
        cursor.hidden = map.motion !== motion;
        if (map.motion !== motion) return;
        const side = shifts.length;
        cursor.style.left = (100 * column) / side + "%";
        cursor.style.top = (100 * row) / side + "%";
        cursor.style.width = cursor.style.height = 100 / side + "%";
        const line = document.createElement("span");
        line.append.apply(line, [data.titles[map.network] + ": "].concat(
          answer(picture, map.found.classes[row][column], map.found.probabilities[row][column])));
        lines.push(line);
      });
      readout.replaceChildren.apply(readout, lines);
    }

    maps.forEach(function (map) {
      const side = map.found.shifts.length;
      const middle = Math.max(0, map.found.shifts.indexOf(0));
      let row = middle;
      let column = middle;
      map.cells.tabIndex = 0;
      map.cells.addEventListener("pointermove", function (event) {
        const box = map.cells.getBoundingClientRect();
        const at = function (value, start, length) {
          return Math.max(0, Math.min(side - 1, Math.floor(((value - start) / length) * side)));
        };
        column = at(event.clientX, box.left, box.width);
        row = at(event.clientY, box.top, box.height);
        show(map.motion, row, column);
      });
      map.cells.addEventListener("focus", function () { show(map.motion, row, column); });
      map.cells.addEventListener("keydown", function (event) {
        const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
        const move = moves[event.key];
        if (!move) return;
        event.preventDefault();
        row = Math.max(0, Math.min(side - 1, row + move[0]));
        column = Math.max(0, Math.min(side - 1, column + move[1]));
        show(map.motion, row, column);
      });
    });
    const middle = Math.max(0, maps[0].found.shifts.indexOf(0));
    show("crop", middle, middle);
  });
})();
