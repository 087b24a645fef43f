// Taking all conversations out as a file, and bringing in those of a file.

import { call, readText } from "./api.js";
import { openDialog } from "./dialogs.js";
import { download, el, toast } from "./dom.js";

/** Save all conversations as a file. */
export async function exportAll() {
  try {
    const text = await readText("/sessions/export");
    const day = new Date().toLocaleDateString("sv");
    download(`hearth-conversations ${day}`, text, { type: "application/json", ending: "json" });
  } catch (error) {
    toast(`Nothing was exported: ${error.message}`, { isError: true });
  }
}

/** Have the person choose a file, and bring in its conversations; `done()` is called when there are new ones. */
export function importFrom(done) {
  const field = el("input", { type: "file", accept: ".json,application/json" });
  field.addEventListener("change", async () => {
    const [file] = field.files;
    if (!file) return;
    try {
      const found = await call("POST", "/sessions/import", await textOf(file));
      if (found.imported) await done();
      report(found);
    } catch (error) {
      toast(`Nothing was imported from ${file.name}: ${error.message}`, { isError: true });
    }
  });
  field.click();
}

/** The file's text. Raises an error in plain words where it can be none that has conversations. */
async function textOf(file) {
  const start = await file.slice(0, 2).text();
  if (start === "PK") throw new Error("it is a ZIP archive. Unpack it, and choose the file conversations.json in it.");
  const text = await file.text();
  try {
    JSON.parse(text);
  } catch {
    throw new Error("it is not a file of conversations. Hearth reads its own exports, ChatGPT's conversations.json, and Open WebUI's exports.");
  }
  return text;
}

function report({ imported, skipped }) {
  const words = imported === 1 ? "1 conversation was imported." : `${imported} conversations were imported.`;
  if (!skipped.length) return toast(words);
  const left = skipped.length === 1 ? "1 was left out:" : `${skipped.length} were left out:`;
  return openDialog("Import", [el("p", {}, words), el("p", {}, left),
    el("ul", { className: "skipped", tabIndex: 0, "aria-label": "Left out" }, ...skipped.map(({ name, reason }) => el("li", {}, el("strong", {}, name || "Without a name"), ` ${reason}`)))]);
}
