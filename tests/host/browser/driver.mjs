// A browser that does what it is told: one JSON command per line on stdin, one answer per line on
// stdout. It knows nothing of the tests; those are in python (page.py).
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { homedir } from "node:os";
import { join } from "node:path";

function playwright() {
  const places = [import.meta.dirname, ...(process.env.NODE_PATH ?? "").split(":"), join(homedir(), "pw")];
  for (const place of places.filter(Boolean)) {
    for (const file of [join(place, "package.json"), join(place, "..", "package.json")]) {
      try {
        return createRequire(file)("playwright-core");
      } catch {
        // Not here: the next place.
      }
    }
  }
  return null;
}

const found = playwright();
if (process.argv.includes("--check")) {
  process.exit(found ? 0 : 3);
}

// What moves costs as much as all the rest; four pictures a second are enough.
function keepStill() {
  const still = new CSSStyleSheet();
  still.replaceSync("*, *::before, *::after { animation: none !important; transition: none !important }");
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, still];
  window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 250);
  window.cancelAnimationFrame = clearTimeout;
}

const errors = [];
let browser, page;

const does = {
  async start({ chromium, width, height, still }) {
    browser = await found.chromium.launch({
      executablePath: chromium,
      args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
    });
    page = await browser.newPage({ viewport: { width, height } });
    if (still) await page.addInitScript(keepStill);
    page.on("pageerror", (error) => errors.push(String(error.stack ?? error)));
  },
  goto: ({ url }) => page.goto(url, { waitUntil: "domcontentloaded" }).then(() => null),
  wait: ({ code, value, timeout }) =>
    page.waitForFunction(`(${code})(${JSON.stringify(value ?? null)})`, null, { timeout }).then(() => null),
  evaluate: ({ code, value }) => page.evaluate(`(${code})(${JSON.stringify(value ?? null)})`),
  // Drags and clicks are the user's, not events made by a script.
  async drag({ from, to }) {
    await page.mouse.move(...from);
    await page.mouse.down();
    await page.mouse.move(...to, { steps: 8 });
    await page.mouse.up();
    return null;
  },
  click: ({ at }) => page.mouse.click(...at).then(() => null),
  clickOn: ({ selector }) => page.locator(selector).first().click({ timeout: 10000 }).then(() => null),
  choose: ({ selector, path }) => page.locator(selector).first().setInputFiles(path).then(() => null),
  type: ({ text }) => page.keyboard.type(text).then(() => null),
  press: ({ key }) => page.keyboard.press(key).then(() => null),
  box: ({ selector }) => page.locator(selector).first().boundingBox({ timeout: 5000 }),
  shot: ({ path, clip, selector }) =>
    (selector ? page.locator(selector).first() : page).screenshot(clip ? { path, clip } : { path }).then(() => null),
  size: ({ width, height }) => page.setViewportSize({ width, height }).then(() => null),
  errors: () => errors.splice(0),
  stop: () => browser?.close().then(() => null),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await does[name](rest)) ?? null };
  } catch (error) {
    answer = { error: String(error.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
  if (name === "stop") process.exit(0);
}
await browser?.close();
