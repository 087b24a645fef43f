// Making elements, and the small things that every part of the page needs.

const SVG = "http://www.w3.org/2000/svg";
const TOAST_SECONDS = 6;
const ERROR_SECONDS = 12;
const MOST_TOASTS = 3;
const COPIED_SECONDS = 1.5;
const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v11H9zM6 15H5V4h10v2",
  attach: "M8 12l6-6a3 3 0 0 1 4 4l-8 8a5 5 0 0 1-7-7l8-8",
  file: "M7 3h7l4 4v14H7zM14 3v4h4",
  text: "M5 6h14M5 10h14M5 14h10M5 18h7",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  fold: "M9 6l6 6-6 6",
  done: "M5 13l4 4L19 7",
  settings: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
};

/** An element: `props` are its properties, or attributes where the name has a dash or is `role`; null leaves one out. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name.includes("-") || name === "role" || name === "for" || name === "list") made.setAttribute(name, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** One of the drawn signs. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows a sign, and says in words what it does. */
export function iconButton(name, label, onclick) {
  return el("button", { type: "button", className: "icon-button", title: label, "aria-label": label, onclick }, icon(name));
}

/** A button that copies what `text()` returns, and says that it has. */
export function copyButton(label, text, sign = "copy") {
  let timer;
  const show = (isDone) => {
    button.classList.toggle("done", isDone);
    button.replaceChildren(icon(isDone ? "done" : sign), ...(isDone ? [el("span", { "aria-hidden": "true" }, "Copied")] : []));
  };
  const button = iconButton(sign, label, async () => {
    if (!(await copy(text()))) return void toast("This browser does not let the page copy.", { isError: true });
    announce("Copied");
    show(true);
    clearTimeout(timer);
    timer = setTimeout(() => show(false), COPIED_SECONDS * 1000);
  });
  return button;
}

/** Put a text on the clipboard. Over plain HTTP from another machine a browser has only the old way. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = el("textarea", { value: text, className: "hidden", readOnly: true });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/** Save a text as a file: Markdown, unless told otherwise. */
export function download(name, text, { type = "text/markdown", ending = "md" } = {}) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: `${name.replace(/[^\p{L}\p{N} -]/gu, "").trim() || "conversation"}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Whether a key says that what was written is to be sent. Safari says only by its code that Enter has ended the choice of a character. */
export const isSend = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

/** Have a screen reader say something; what is the same as before is said again, since a space is added to it. */
export function announce(words) {
  const area = byId("announce");
  area.textContent = area.textContent === words ? `${words}\u00a0` : words;
}

const closers = [];
// Where they lie over something, that has as much room below.
new ResizeObserver(([{ target }]) => document.documentElement.style.setProperty("--toasts", `${target.offsetHeight}px`)).observe(byId("toasts"));

/**
 * Show a line for a while, with something that can be done about it; returns what takes it away. `onexpire()` is called where
 * it goes by itself or is closed. As long as somebody points at it or has the focus in it, it stays.
 */
export function toast(words, { action, onaction, onexpire = () => {}, seconds, isError = false } = {}) {
  let timer;
  let before = null;
  const remove = () => {
    if (shown.contains(document.activeElement)) (before?.isConnected ? before : byId("prompt")).focus();
    shown.remove();
    clearTimeout(timer);
    if (closers.includes(close)) closers.splice(closers.indexOf(close), 1);
  };
  const close = () => {
    remove();
    onexpire();
  };
  const wait = () => {
    clearTimeout(timer);
    if (shown.isConnected) timer = setTimeout(close, (seconds ?? (isError ? ERROR_SECONDS : TOAST_SECONDS)) * 1000);
  };
  const stay = () => clearTimeout(timer);
  const button = action && el("button", { type: "button", onclick: () => (remove(), onaction()) }, action);
  const shown = el("div", { className: isError ? "toast error" : "toast", onmouseenter: stay, onmouseleave: wait, onfocusout: wait },
    el("span", {}, words), button, iconButton("close", "Close this message", close));
  shown.addEventListener("focusin", ({ relatedTarget }) => {
    stay();
    if (!shown.contains(relatedTarget)) before = relatedTarget;
  });
  shown.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  });
  if (closers.push(close) > MOST_TOASTS) closers[0]();
  byId("toasts").append(shown);
  wait();
  return remove;
}

/** Close the newest toast; returns whether there was one. */
export function closeToast() {
  const close = closers.at(-1);
  close?.();
  return Boolean(close);
}

/** "3.8 MB", as the files' sizes are usually told. */
export function bytes(n) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(n, 1)) / 3), units.length - 1);
  return `${(n / 1000 ** power).toPrecision(3).replace(/\.0+$|(\.\d*?)0+$/, "$1")} ${units[power]}`;
}

/** How long ago a time was, in words. */
export function ago(iso) {
  if (!iso) return "";
  const seconds = Math.max(0, (Date.now() - new Date(iso)) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  if (seconds < 604800) return `${Math.floor(seconds / 86400)} d ago`;
  return new Date(iso).toLocaleDateString();
}
