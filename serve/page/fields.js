// The inputs of a task as fields of the form: text, image, series. A field is
//   { element, value(): Promise of what goes into the request, or null where it is empty, fill(value) }
// and says itself what is wrong with a file.

import { parseSeries, plot } from "./series.js";

/** A copy of a template's only element. */
export const copy = (template) => document.getElementById(template).content.firstElementChild.cloneNode(true);

/** Shows one line at a field, and moves the focus there. */
export function refuse(field, detail) {
  const error = field.querySelector(".error");
  const control = field.querySelector("input, textarea, select, button");
  error.textContent = detail;
  error.id ||= `error-${control.id}`;
  if (control.type !== "submit" && control.type !== "button") {
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-errormessage", error.id);
  }
  control.focus();
}

/** Takes back what `refuse` showed, at a field or at all fields below an element. */
export function accept(element) {
  for (const error of element.querySelectorAll(".error")) error.textContent = "";
  for (const control of element.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-errormessage");
  }
}

/** The field of an input `{name, kind, channels}`; `edited` is called when a person changes it. */
export function inputField(input, edited) {
  if (input.kind === "text") return textField(input, edited);
  return input.kind === "image" ? imageField(input, edited) : seriesField(input, edited);
}

/** A name for people: "side_view" -> "Side view"; up to three letters are an abbreviation: "imu" -> "IMU". */
export function title(name) {
  if (name.length <= 3) return name.toUpperCase();
  return name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
}

function textField({ name }, edited) {
  const element = labelled("text-template", name);
  const area = element.querySelector("textarea");
  area.addEventListener("input", edited);
  return {
    element,
    value: async () => area.value.trim() || null,
    fill: (value) => {
      area.value = value;
    },
  };
}

function imageField(input, edited) {
  return fileField(input, edited, {
    types: "image/png,image/jpeg,image/webp",
    hint: "Drop a PNG, JPEG or WebP file here, or choose one",
    read: async (file) => {
      const url = await dataUrl(file);
      await picture(url).decode().catch(() => {
        throw new Error(`${file.name} is not an image that can be read`);
      });
      return url.slice(url.indexOf(",") + 1);
    },
    // The type does not matter: browsers tell images by their content.
    show: (value) => [picture(`data:image/png;base64,${value}`, `Preview of the ${input.name}`)],
  });
}

function seriesField(input, edited) {
  const { channels } = input;
  return fileField(input, edited, {
    types: ".csv,.tsv,.txt,text/csv,text/plain",
    hint: `Drop a CSV file here, or choose one: a row a time step, ${channels ?? "any number of"} columns`,
    read: async (file) => parseSeries(await file.text(), channels),
    show: (rows) => [plot(rows), note(`${rows.length} steps, ${rows[0].length} channels`)],
  });
}

function fileField({ name }, edited, { types, hint, read, show }) {
  const element = labelled("file-template", name);
  const chooser = element.querySelector("input");
  const remove = element.querySelector("button");
  const preview = element.querySelector(".preview");
  let content = Promise.resolve(null); // rejected where the file is no good, so that it is not sent either
  const about = element.querySelector(".hint");
  chooser.accept = types;
  about.textContent = hint;
  about.id = `hint-${name}`;
  chooser.setAttribute("aria-describedby", about.id);
  remove.setAttribute("aria-label", `Remove the ${name}`);

  const fill = (value) => {
    content = Promise.resolve(value);
    accept(element);
    remove.hidden = value === null;
    element.classList.toggle("filled", value !== null);
    preview.replaceChildren(...(value === null ? [] : show(value)));
  };
  const choose = async () => {
    const [file] = chooser.files;
    if (!file) return;
    edited();
    fill(null);
    const reading = read(file);
    content = reading;
    try {
      const value = await reading;
      if (content === reading) fill(value);
    } catch (error) {
      if (content === reading) refuse(element, error.message);
    }
    chooser.value = ""; // so that the same file, corrected, can be chosen again
  };
  chooser.addEventListener("change", choose);
  for (const [event, over] of [["dragenter", true], ["dragleave", false], ["drop", false]]) {
    chooser.addEventListener(event, () => element.classList.toggle("over", over));
  }
  remove.addEventListener("click", () => {
    edited();
    fill(null);
    chooser.focus();
  });
  return { element, value: () => content, fill };
}

function labelled(template, name) {
  const element = copy(template);
  const label = element.querySelector("label");
  element.dataset.field = name;
  label.textContent = title(name);
  label.htmlFor = element.querySelector("input, textarea").id = `input-${name}`;
  return element;
}

function note(text) {
  const element = document.createElement("p");
  element.className = "hint";
  element.textContent = text;
  return element;
}

export function picture(url, alternative = "") {
  const image = new Image();
  image.src = url;
  image.alt = alternative;
  return image;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}
