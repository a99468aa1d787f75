// Sensor series, T rows of C numbers: read from CSV, drawn as SVG.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8; // .channel-0 to .channel-7 of the style sheet
const POINTS = 600; // drawn a channel; more would not be seen
const [WIDTH, HEIGHT] = [600, 120];

/** The rows of a CSV text; a first line without numbers is a header. Throws Error with a line for people. */
export function parseSeries(text, channels) {
  const lines = text.split(/\r?\n/).map((line, index) => [index + 1, line.trim()]).filter(([, line]) => line);
  const cells = lines.map(([number, line]) => [number, line.split(/\s*[,;\t]\s*|\s+/)]);
  if (cells.length && cells[0][1].every((cell) => !isNumber(cell))) cells.shift();
  if (!cells.length) throw new Error("the file has no rows of numbers");
  const width = channels ?? cells[0][1].length;
  return cells.map(([number, row]) => {
    if (row.length !== width) throw new Error(`line ${number} has ${row.length} columns; ${width} are needed`);
    const bad = row.find((cell) => !isNumber(cell));
    if (bad !== undefined) throw new Error(`line ${number}: “${bad.slice(0, 20)}” is not a number`);
    return row.map(Number);
  });
}

const isNumber = (cell) => cell !== "" && Number.isFinite(Number(cell));

/** A line a channel, over time; the scale is the series' own. */
export function plot(rows) {
  let [low, high] = [Infinity, -Infinity];
  for (const row of rows) {
    for (const value of row) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  const step = Math.max(1, Math.floor(rows.length / POINTS));
  const x = (time) => ((time / Math.max(1, rows.length - 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 4 - ((value - low) / (high - low || 1)) * (HEIGHT - 8)).toFixed(1);
  const channels = rows[0].length;
  const svg = make("svg", {
    "aria-label": `${channels} channels, ${rows.length} steps, ${low.toPrecision(3)} to ${high.toPrecision(3)}`,
    class: "plot",
    preserveAspectRatio: "none",
    role: "img",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
  });
  for (let channel = 0; channel < channels; channel++) {
    const points = [];
    for (let time = 0; time < rows.length; time += step) points.push(`${x(time)},${y(rows[time][channel])}`);
    svg.append(make("polyline", { points: points.join(" "), class: `channel-${channel % COLOURS}` }));
  }
  return svg;
}

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
