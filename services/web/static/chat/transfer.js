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
      const found = await bringIn(await entriesOf(file));
      if (found.imported) await done();
      report(found);
    } catch (error) {
      toast(`Nothing was imported from ${file.name}: ${error.message}`, { isError: true });
    }
  });
  field.click();
}

// Characters of one request, each of three bytes at most: the server takes a million bytes.
const MOST = 300_000;

/** Have the server store conversations, as many with each request as it takes; returns what it says of all of them. */
async function bringIn(entries) {
  const sum = { imported: 0, skipped: [] };
  let batch = [];
  let size = 0;
  const flush = async () => {
    if (!batch.length) return;
    try {
      const found = await call("POST", "/sessions/import", { sessions: batch });
      sum.imported += found.imported;
      sum.skipped.push(...found.skipped);
    } catch (error) {
      // What came before is there, and is to be told.
      sum.skipped.push(...batch.map((entry) => ({ name: entry?.title ?? entry?.name ?? "", reason: error.message })));
    }
    batch = [];
    size = 0;
  };
  for (const entry of entries) {
    const length = JSON.stringify(entry).length;
    if (size + length > MOST) await flush();
    batch.push(entry);
    size += length;
  }
  await flush();
  return sum;
}

/** The conversations in a file. Raises an error in plain words where there can be none. */
async function entriesOf(file) {
  const start = await file.slice(0, 2).text();
  if (start === "PK") throw new Error("it is a ZIP archive. Unpack it, and choose the file conversations.json in it.");
  try {
    const found = JSON.parse(await file.text());
    const entries = Array.isArray(found) ? found : found.sessions;
    if (!Array.isArray(entries)) throw new Error();
    return entries;
  } catch {
    throw new Error("it is not a file of conversations. Hearth reads its own exports, ChatGPT's conversations.json, and Open WebUI's exports.");
  }
}

function report({ imported, skipped }) {
  const words = imported === 1 ? "1 conversation was imported." : `${imported} conversations were imported.`;
  if (!skipped.length) return toast(words);
  const left = skipped.length === 1 ? "1 was left out:" : `${skipped.length} were left out:`;
  return openDialog("Import", [el("p", {}, words), el("p", {}, left),
    el("ul", { className: "skipped", tabIndex: 0, "aria-label": "Left out" }, ...skipped.map(({ name, reason }) => el("li", {}, el("strong", {}, name || "Without a name"), ` ${reason}`)))]);
}
