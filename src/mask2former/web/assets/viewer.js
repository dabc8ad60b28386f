// Shows a result: the map of segments is here, so that pointing at one asks nobody. All words of others go through
// textContent.
const root = element.querySelector(".m2f-viewer");
const find = (name) => root.querySelector(name);
const [image, canvas, video, tip] = [find("img"), find("canvas"), find("video"), find(".m2f-tip")];
const [head, body, chips] = [find("thead"), find("tbody"), find(".m2f-classes")];
const number = new Intl.NumberFormat("en");
let shown = null; // the value that is shown
let ids = null; // number of the row of each pixel of the map, from 1
let pinned = 0;
let hovered = 0;

const make = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};
const dot = (color) => {
  const made = make("i", "m2f-dot");
  made.style.background = color;
  return made;
};
const percent = (share) => (100 * share).toFixed(1) + "%";
const certain = (score) => (score === null ? "–" : Math.floor(100 * score + 1e-6) + "%"); // as it is drawn

function fail(message) {
  find(".m2f-message").textContent = message || "";
}

function render() {
  const value = props.value;
  const before = shown;
  shown = value && value.kind !== "failure" ? value : null;
  fail(value && value.kind === "failure" ? value.message : "");
  root.dataset.kind = shown ? shown.kind : "empty";
  point(0);
  pinned = 0;
  ids = null;
  if (!shown || shown.kind !== "clip") video.removeAttribute("src");
  if (!shown) return;
  root.style.setProperty("--m2f-ratio", shown.size[0] / shown.size[1]);
  find(".m2f-title").textContent = shown.title;
  find(".m2f-summary").textContent = shown.summary;
  find(".m2f-notes").replaceChildren(...shown.notes.map((note) => make("li", "", note)));
  if (shown.kind === "clip") {
    video.src = shown.video;
    video.play().catch(() => {}); // where a browser plays nothing unasked, there are the controls
  } else {
    image.src = shown.overlay;
    readMap(shown);
  }
  renderClasses();
  renderRows();
  const isOther = !before || before.title !== shown.title;
  if (isOther && window.innerWidth < 800) root.scrollIntoView({ behavior: "smooth", block: "start" });
}

function readMap(value) {
  const map = new Image();
  map.onload = () => {
    if (shown !== value) return;
    canvas.width = map.naturalWidth;
    canvas.height = map.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(map, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    context.clearRect(0, 0, canvas.width, canvas.height);
    ids = new Uint16Array(canvas.width * canvas.height);
    for (let index = 0; index < ids.length; index++) ids[index] = pixels[4 * index] + 256 * pixels[4 * index + 1];
    root.dataset.ready = shown.rows.length; // for those who wait for it
  };
  delete root.dataset.ready;
  map.src = value.map;
}

function renderClasses() {
  const classes = shown.classes || [];
  const hidden = classes.filter((item) => item.hidden);
  const buttons = classes.map((item) => {
    const button = make("button", "m2f-chip");
    button.type = "button";
    button.setAttribute("aria-pressed", String(!item.hidden));
    button.title = (item.hidden ? "Show " : "Hide ") + item.name;
    button.append(dot(item.color), make("span", "m2f-name", item.name), make("span", "m2f-count", item.count));
    button.addEventListener("click", () => {
      item.hidden = !item.hidden;
      button.setAttribute("aria-pressed", String(!item.hidden)); // at once; the drawing follows
      send();
    });
    return button;
  });
  if (hidden.length) {
    const all = make("button", "m2f-chip m2f-all", "Show all");
    all.type = "button";
    all.addEventListener("click", () => {
      classes.forEach((item) => (item.hidden = false));
      send();
    });
    buttons.push(all);
  }
  chips.replaceChildren(...buttons);
}

function send() {
  trigger("toggle", { labels: shown.classes.filter((item) => item.hidden).map((item) => item.label) });
}

function renderRows() {
  const isClip = shown.kind === "clip";
  const titles = isClip ? ["Track", "Score", "Seen", "Frames"] : ["Segment", "Score", "Area", "Share"];
  const line = make("tr");
  line.append(...titles.map((title) => make("th", "", title)));
  head.replaceChildren(...(shown.rows.length ? [line] : []));
  body.replaceChildren(
    ...shown.rows.map((row, index) => {
      const made = make("tr");
      const name = make("td");
      name.append(dot(row.color), row.name);
      const cells = isClip
        ? [row.first.toFixed(1) + "–" + row.last.toFixed(1) + " s", number.format(row.frames)]
        : [number.format(row.area) + " px", percent(row.share)];
      made.append(name, make("td", "", certain(row.score)), ...cells.map((cell) => make("td", "", cell)));
      made.tabIndex = 0;
      if (isClip) {
        const seek = () => (video.currentTime = row.first);
        made.addEventListener("click", seek);
        made.addEventListener("keydown", (event) => event.key === "Enter" && seek());
        return made;
      }
      made.addEventListener("mouseenter", () => point(index + 1));
      made.addEventListener("mouseleave", () => point(pinned));
      made.addEventListener("focus", () => point(index + 1));
      made.addEventListener("blur", () => point(pinned));
      const pin = () => point((pinned = pinned === index + 1 ? 0 : index + 1));
      made.addEventListener("click", pin);
      made.addEventListener("keydown", (event) => event.key === "Enter" && pin());
      return made;
    }),
  );
}

// Lights one segment up, in the image and in the list; 0: none.
function point(index) {
  if (hovered === index && index) return;
  hovered = index;
  [...body.children].forEach((line, place) => line.classList.toggle("m2f-on", place + 1 === index));
  tip.textContent = "";
  if (!ids) return;
  const [width, height] = [canvas.width, canvas.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.clearRect(0, 0, width, height);
  if (!index) return;
  const drawn = context.createImageData(width, height);
  const colors = new Uint32Array(drawn.data.buffer);
  const shade = 0x8c201008; // alpha, blue, green, red: all but the segment is dimmed
  const reach = Math.max(1, Math.round(width / 400));
  for (let place = 0; place < ids.length; place++) {
    if (ids[place] !== index) {
      colors[place] = shade;
      continue;
    }
    const column = place % width;
    const isEdge =
      (column >= reach && ids[place - reach] !== index) ||
      (column < width - reach && ids[place + reach] !== index) ||
      (place >= reach * width && ids[place - reach * width] !== index) ||
      (place < (height - reach) * width && ids[place + reach * width] !== index);
    if (isEdge) colors[place] = 0xffffffff;
  }
  context.putImageData(drawn, 0, 0);
  describe(index);
}

function describe(index) {
  const row = shown.rows[index - 1];
  const name = make("strong");
  name.append(dot(row.color), row.name);
  const score = row.score === null ? "" : "score " + certain(row.score) + " · ";
  tip.append(name, make("span", "", score + number.format(row.area) + " px · " + percent(row.share)));
  if (row.box[0] === null) return;
  const [width, height] = shown.size;
  const left = (100 * (row.box[0] + row.box[2])) / 2 / width;
  tip.style.left = Math.min(86, Math.max(14, left)) + "%";
  const [above, below] = [row.box[1] / height, row.box[3] / height];
  const isAbove = above > 0.16 || below > 0.9;
  tip.style.top = 100 * (isAbove ? Math.max(0.16, above) : below) + "%";
  tip.dataset.side = isAbove ? "above" : "below";
}

function under(event) {
  if (!ids) return 0;
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
  const row = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
  if (column < 0 || row < 0 || column >= canvas.width || row >= canvas.height) return 0;
  return ids[row * canvas.width + column];
}

canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(under(event) || pinned));
canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(pinned));
canvas.addEventListener("click", (event) => {
  const index = under(event);
  pinned = index === pinned ? 0 : index;
  point(pinned);
  const line = body.children[pinned - 1];
  const list = find(".m2f-list");
  if (line) list.scrollTop = line.offsetTop - list.clientHeight / 2;
});
root.querySelectorAll("[data-save]").forEach((button) =>
  button.addEventListener("click", () => trigger("download", { kind: button.dataset.save })),
);
document.addEventListener("m2f-failure", (event) => fail(event.detail));

// A file that is dropped or pasted anywhere goes where files are chosen.
function hand(files) {
  const input = document.querySelector("#m2f-file input[type=file]");
  if (!input || !files.length) return;
  const transfer = new DataTransfer();
  transfer.items.add(files[0]);
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
const isInput = (event) => event.target.closest && event.target.closest("#m2f-file");
document.addEventListener("dragover", (event) => isInput(event) || event.preventDefault());
document.addEventListener("drop", (event) => {
  if (isInput(event)) return;
  event.preventDefault();
  hand(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => hand(event.clipboardData.files));

// While a number is typed, its field may be empty, which is no number for the server: the last one stays.
const isEmpty = ({ target }) => target.matches("#m2f-threshold input[type=number]") && target.value === "";
document.addEventListener("input", (event) => isEmpty(event) && event.stopImmediatePropagation(), true);
document.addEventListener(
  "focusout",
  (event) => {
    if (isEmpty(event)) event.target.value = document.querySelector("#m2f-threshold input[type=range]").value;
  },
  true
);

watch("value", render);
