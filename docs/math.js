// Without a font that has tables for mathematics, subscripts stand on the line; style.css lowers them where it is so.
document.addEventListener("DOMContentLoaded", () => {
  const probe = document.createElement("div")
  probe.innerHTML = "<math><msub><mi>x</mi><mi>x</mi></msub></math>"
  document.body.append(probe)
  const [base, index] = [...probe.querySelectorAll("mi")].map((one) => one.getBoundingClientRect())
  probe.remove()
  document.documentElement.classList.toggle("no-math-font", index.bottom - base.bottom < 0.2 * base.height)
})
