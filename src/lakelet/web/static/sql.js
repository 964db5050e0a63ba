// The query editor: Ctrl Enter runs it.
const form = document.getElementById("sql-form");
document.getElementById("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
});
form.addEventListener("submit", () => { form.querySelector("button.primary").textContent = "Running …"; });
