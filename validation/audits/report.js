"use strict";
// Programs go to the clipboard; where a page may not write there, they are selected.
for (const button of document.querySelectorAll("button.copy")) {
  const program = button.nextElementSibling;
  const say = (word) => {
    button.dataset.done = button.textContent = word;
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(program.textContent);
      say("Copied");
    } catch {
      getSelection().selectAllChildren(program);
      say("Selected");
    }
  });
}

// What sticks below the filters has to know how tall they are; a phone lets them go.
const bar = document.querySelector("form.bar");
const measure = () => {
  const sticks = getComputedStyle(bar).position === "sticky";
  document.documentElement.style.setProperty("--bar", `${sticks ? bar.offsetHeight : 0}px`);
};
new ResizeObserver(measure).observe(bar);
measure();
