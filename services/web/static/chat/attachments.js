// The files that a conversation is answered from: attached by the button, dropped, or pasted.

import { events } from "./api.js";
import { byId, el, icon, iconButton, toast } from "./dom.js";
import { keepSettings, settingsOf } from "./settings.js";

// A pasted text of more characters becomes a file.
const LONG_PASTE = 4000;
// As many files as one request may name.
const MOST = 100;

export class Attachments {
  /** The files of the conversation `session()`; `onchange` is called when they change. */
  constructor({ session, onchange }) {
    this.session = session;
    this.onchange = onchange;
    this.list = byId("attachments");
    this.uploads = new Set();
    const choose = el("input", { type: "file", multiple: true, hidden: true, onchange: () => {
      this.add(choose.files);
      choose.value = "";
    } });
    const button = byId("attach");
    button.append(icon("attach"));
    button.after(choose);
    button.addEventListener("click", () => choose.click());
    this.#takeDrops(byId("app").querySelector("main"));
    byId("prompt").addEventListener("paste", (event) => this.#paste(event));
  }

  /** Upload files, and attach them to the open conversation. */
  add(files) {
    for (const file of files) this.#upload(file);
  }

  /** Resolves once all uploads are over. */
  async ready() {
    await Promise.all(this.#under(this.session()).map(({ done }) => done));
  }

  /** The new chat has got its number: what is uploaded for it is for that. */
  numbered(session) {
    for (const upload of this.#under(null)) upload.session = session;
  }

  /** The uploads under way for a session; null: for the new chat. */
  #under(session) {
    return [...this.uploads].filter((upload) => upload.session === session);
  }

  draw() {
    const { files = [] } = settingsOf(this.session());
    const rows = [
      ...files.map((file) => el("li", {}, icon("file"), el("span", { className: "name" }, file.name), iconButton("close", `Remove ${file.name}`, () => this.#remove(file)))),
      ...this.#under(this.session()).map(({ name, state, abort }) => el("li", { className: "arriving" }, icon("file"), el("span", { className: "name" }, name),
        el("span", { className: "faint" }, state), iconButton("close", `Stop ${name}`, () => abort.abort()))),
    ];
    this.list.replaceChildren(...rows);
    this.list.hidden = !rows.length;
  }

  #upload(file) {
    if ((settingsOf(this.session()).files ?? []).length + this.#under(this.session()).length >= MOST) {
      return toast(`A conversation may have ${MOST} files.`, { isError: true });
    }
    const upload = { name: file.name, state: "sending…", abort: new AbortController(), session: this.session() };
    upload.done = this.#send(file, upload).finally(() => {
      this.uploads.delete(upload);
      this.draw();
    });
    this.uploads.add(upload);
    this.draw();
  }

  async #send(file, upload) {
    const form = new FormData();
    form.append("file", file, file.name);
    form.append("stream", "true");
    try {
      for await (const { data } of events("/files", form, { signal: upload.abort.signal })) {
        if (data?.id) this.#attach(upload, { id: data.id, name: data.name });
        else if (data?.state) upload.state = data.state === "reading" ? `reading ${data.done} of ${data.of}` : "indexing…";
        this.draw();
      }
    } catch (error) {
      if (error.name !== "AbortError") toast(`${file.name}: ${error.message}`, { isError: true });
    }
  }

  #attach(upload, file) {
    const { session } = upload;
    const settings = settingsOf(session);
    keepSettings(session, { ...settings, files: [...(settings.files ?? []), file] });
    this.onchange();
  }

  /** The file itself stays stored: other conversations may be about it. */
  #remove({ id }) {
    const { files, ...settings } = settingsOf(this.session());
    const left = files.filter((file) => file.id !== id);
    keepSettings(this.session(), left.length ? { ...settings, files: left } : settings);
    this.draw();
    this.onchange();
    byId("prompt").focus();
  }

  #takeDrops(area) {
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    area.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      area.classList.add("dropping");
    });
    area.addEventListener("dragleave", (event) => area.contains(event.relatedTarget) || area.classList.remove("dropping"));
    area.addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      area.classList.remove("dropping");
      this.add(event.dataTransfer.files);
    });
  }

  #paste(event) {
    const { files } = event.clipboardData;
    const text = event.clipboardData.getData("text/plain");
    if (files.length && !text) {
      event.preventDefault();
      this.add(files);
    } else if (text.length > LONG_PASTE) {
      event.preventDefault();
      this.add([new File([text], `Pasted text, ${text.trim().slice(0, 30).replace(/[^\p{L}\p{N} ]/gu, "").trim() || "notes"}.txt`, { type: "text/plain" })]);
    }
  }
}
