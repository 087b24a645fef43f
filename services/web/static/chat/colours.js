// Colours for code. The library comes with the first code that needs it, and so does each language.

import "/page/dompurify/purify.min.js";

const LANGUAGES = new Set((
  "bash c cpp csharp css dart diff dockerfile go graphql ini java javascript json kotlin latex lua makefile markdown nginx " +
  "perl php powershell python r ruby rust scala scss shell sql swift typescript xml yaml"
).split(" "));
const ALSO = {
  sh: "bash", zsh: "bash", h: "c", cc: "cpp", "c++": "cpp", hpp: "cpp", cs: "csharp", "c#": "csharp", patch: "diff",
  docker: "dockerfile", golang: "go", toml: "ini", js: "javascript", jsx: "javascript", mjs: "javascript", jsonc: "json",
  kt: "kotlin", tex: "latex", make: "makefile", md: "markdown", pl: "perl", ps1: "powershell", py: "python", rb: "ruby",
  rs: "rust", console: "shell", ts: "typescript", tsx: "typescript", html: "xml", svg: "xml", yml: "yaml",
};
// A class says what a piece of code is; nothing else of the markup passes.
const RULES = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["data-is"], RETURN_DOM_FRAGMENT: true };

const languages = new Map();
let core = null;

/** The text as coloured elements; null where the language is not known. */
export async function coloured(text, named) {
  const language = ALSO[named.toLowerCase()] ?? named.toLowerCase();
  if (!LANGUAGES.has(language)) return null;
  core ??= import("/page/highlight/core.min.js");
  const library = (await core).default;
  if (!languages.has(language)) languages.set(language, import(`/page/highlight/languages/${language}.min.js`));
  const grammar = (await languages.get(language)).default;
  if (!library.getLanguage(language)) library.registerLanguage(language, grammar);
  const html = library.highlight(text, { language, ignoreIllegals: true }).value;
  const fragment = globalThis.DOMPurify.sanitize(html.replaceAll('<span class="', '<span data-is="'), RULES);
  for (const span of fragment.querySelectorAll("[data-is]")) {
    span.className = span.dataset.is;
    delete span.dataset.is;
  }
  return fragment;
}
