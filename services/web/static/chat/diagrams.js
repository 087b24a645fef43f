// Diagrams, drawn where somebody asks for it: the library is large, and needs what the page's policy forbids. It works in a
// frame without the page's origin, which gets a diagram's code and says how high the drawing is.

import { el } from "./dom.js";

const PATIENCE = 30_000;
const HIGHEST = 4000;

/** A button that draws the diagram of `code` in the place of `pre`, which shows it, and then goes from one to the other. */
export function drawButton(code, pre) {
  let frame = null;
  const button = el("button", { type: "button", className: "draw", onclick: go }, "Draw the diagram");

  function go() {
    if (button.getAttribute("aria-disabled")) return;
    if (frame) show(pre.hidden);
    else draw();
  }

  function show(isCode) {
    pre.hidden = !isCode;
    frame.hidden = isCode;
    button.textContent = isCode ? "Show the diagram" : "Show the code";
  }

  async function draw() {
    pre.parentElement.querySelector(".undrawn")?.remove();
    button.setAttribute("aria-disabled", "true");
    button.textContent = "Drawing…";
    frame = el("iframe", { className: "diagram", title: "Diagram", src: "/page/diagram/frame.html" });
    frame.sandbox.add("allow-scripts");
    try {
      await drawn(frame, code, () => pre.before(frame));
      show(false);
    } catch (error) {
      frame.remove();
      frame = null;
      button.textContent = "Draw the diagram";
      pre.before(el("p", { className: "undrawn", role: "alert" }, `This cannot be drawn. ${error.message}`));
    }
    button.removeAttribute("aria-disabled");
  }

  return button;
}

/** Have a frame draw a diagram once `insert()` has put it into the page, and keep it as high as the drawing. */
function drawn(frame, code, insert) {
  return new Promise((resolve, reject) => {
    const fail = (words) => {
      removeEventListener("message", hear);
      clearTimeout(timer);
      reject(new Error(words));
    };
    const timer = setTimeout(() => fail("It takes too long."), PATIENCE);
    const hear = ({ source, data }) => {
      if (!frame.isConnected) fail("");
      if (source !== frame.contentWindow) return;
      if (data?.isReady) source.postMessage({ code }, "*");
      if (typeof data?.error === "string") fail(data.error.slice(0, 200));
      if (data?.height > 0) {
        frame.style.height = `${Math.min(data.height, HIGHEST)}px`;
        clearTimeout(timer);
        resolve();
      }
    };
    addEventListener("message", hear);
    insert();
  });
}
