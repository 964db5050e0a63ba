// Runs before the first paint: the theme that was chosen, if one was.
try {
  const theme = localStorage.getItem("lakelet-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage is switched off: the system's theme it is */ }
