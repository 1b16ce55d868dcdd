# The report of scripts/gpu from its files: state, ours.tsv, peers.tsv, step.tsv. `format` is json or
# md, laid out as prettier would; date, card, driver, nvcc and sources are words for it.
BEGIN { FS = "\t" }

FILENAME ~ /state$/ {
  if (/^#/) next
  if (!($1 in stage)) stages[++stage_count] = $1
  stage[$1] = $2; stage_seconds[$1] += $3; stage_note[$1] = $4
}
FILENAME ~ /\.tsv$/ { gsub(/e\+0*/, "e") } # as prettier writes numbers
FILENAME ~ /ours\.tsv$/ {
  if (!($1 in median)) cases[++case_count] = $1
  median[$1] = $2; fastest[$1] = $3; operations[$1] = $4; bytes[$1] = $5
}
FILENAME ~ /peers\.tsv$/ { add_peer($1, $2, $3, $4) }
# name, side, milliseconds, fastest, operations, peak memory; or name, side, -, why
FILENAME ~ /step\.tsv$/ {
  if ($2 == "ours") {
    cases[++case_count] = $1
    median[$1] = $3; fastest[$1] = $4; operations[$1] = $5; memory[$1] = $6
  } else {
    add_peer($1, $2, $3, $4)
    peer_memory[$1, $2] = $6
  }
}

function add_peer(name, peer, time, rest) {
  peers[name, ++peer_count[name]] = peer
  peer_time[name, peer] = time
  peer_rest[name, peer] = rest
}
function is_number(text) { return text ~ /^[0-9.]+(e[-+]?[0-9]+)?$/ }
function quoted(text) {
  gsub(/\\/, "\\\\", text); gsub(/"/, "\\\"", text); gsub(/[\001-\037]/, " ", text)
  return "\"" text "\""
}
function field(indent, key, value, is_last) {
  printf "%s%s: %s%s\n", indent, quoted(key), value, is_last ? "" : ","
}

# ---- JSON

function json(   i, j, name, peer, key) {
  print "{"
  field("  ", "date", quoted(date))
  field("  ", "card", quoted(card))
  field("  ", "driver", quoted(driver))
  field("  ", "nvcc", quoted(nvcc))
  field("  ", "sources", quoted(sources))
  list_open("stages", stage_count)
  for (i = 1; i <= stage_count; i++) {
    name = stages[i]
    print "    {"
    field("      ", "stage", quoted(name))
    field("      ", "state", quoted(stage[name]))
    field("      ", "seconds", stage_seconds[name] + 0, stage_note[name] == "")
    if (stage_note[name] != "") field("      ", "note", quoted(stage_note[name]), 1)
    print "    }" (i < stage_count ? "," : "")
  }
  if (stage_count > 0) print "  ],"
  list_open("cases", case_count)
  for (i = 1; i <= case_count; i++) {
    name = cases[i]
    print "    {"
    field("      ", "name", quoted(name))
    field("      ", "milliseconds", median[name])
    field("      ", "fastest", fastest[name])
    if (operations[name] + 0 > 0) field("      ", "operations", operations[name])
    if (bytes[name] + 0 > 0) field("      ", "bytes", bytes[name])
    if (memory[name] + 0 > 0) field("      ", "peakMemory", memory[name])
    printf "      \"peers\": [%s", peer_count[name] ? "\n" : "]\n"
    for (j = 1; j <= peer_count[name]; j++) {
      peer = peers[name, j]; key = name SUBSEP peer
      print "        {"
      field("          ", "peer", quoted(peer))
      if (is_number(peer_time[key])) {
        field("          ", "milliseconds", peer_time[key])
        field("          ", "fastest", peer_rest[key], !(peer_memory[key] + 0 > 0))
        if (peer_memory[key] + 0 > 0) field("          ", "peakMemory", peer_memory[key], 1)
      } else field("          ", "missing", quoted(peer_rest[key]), 1)
      print "        }" (j < peer_count[name] ? "," : "")
    }
    if (peer_count[name]) print "      ]"
    print "    }" (i < case_count ? "," : "")
  }
  if (case_count > 0) print "  ]"
  print "}"
}
function list_open(key, count) {
  printf "  %s: [%s", quoted(key), (count ? "\n" : "]" (key == "cases" ? "" : ",") "\n")
}

# ---- Markdown

function row(   i) { table_rows++; for (i = 1; i <= table_columns; i++) table[table_rows, i] = cell[i] }
function begin_table(columns) { table_columns = columns; table_rows = 0 }
# The first column to the left, the others to the right.
function end_table(   i, r, width, line) {
  for (i = 1; i <= table_columns; i++) {
    width[i] = 3
    for (r = 1; r <= table_rows; r++) if (length(table[r, i]) > width[i]) width[i] = length(table[r, i])
  }
  for (r = 1; r <= table_rows; r++) {
    line = "|"
    for (i = 1; i <= table_columns; i++)
      line = line " " (i == 1 ? sprintf("%-" width[i] "s", table[r, i]) : sprintf("%" width[i] "s", table[r, i])) " |"
    print line
    if (r > 1) continue
    line = "|"
    for (i = 1; i <= table_columns; i++)
      line = line " " substr(dashes, 1, width[i] - (i > 1)) (i > 1 ? ":" : "") " |"
    print line
  }
}
function rate(name) {
  if (operations[name] + 0 > 0) return sprintf("%.0f TFLOP/s", operations[name] / median[name] / 1e9)
  return sprintf("%.2f TB/s", bytes[name] / median[name] / 1e9)
}
function gigabytes(count) { return count + 0 > 0 ? sprintf("%.1f GB", count / 1e9) : "" }

function markdown(   i, j, name, peer, key, parts, base, extra, failed, skipped) {
  dashes = sprintf("%200s", ""); gsub(/ /, "-", dashes)
  print "# " card ", " date "\n"
  print "Driver " driver ", nvcc " nvcc ", sources " sources ". Made by `scripts/gpu`; the same figures are in the JSON file beside this one. Times are medians of nine runs of some 50 ms, ours and the peers' on the same card one after the other; ours has float32 activations and bf16 weights, the peers have both in bf16.\n"
  print "## Stages\n"
  begin_table(4)
  cell[1] = "stage"; cell[2] = "state"; cell[3] = "seconds"; cell[4] = "note"; row()
  for (i = 1; i <= stage_count; i++) {
    name = stages[i]
    cell[1] = name; cell[2] = stage[name]; cell[3] = stage_seconds[name]; cell[4] = stage_note[name]; row()
  }
  end_table()
  if (case_count == 0) { print "\nNothing was timed."; return }
  print "\n## Times\n"
  begin_table(6)
  cell[1] = "case"; cell[2] = "ms"; cell[3] = "reached"; cell[4] = "peer"; cell[5] = "its ms"; cell[6] = "ratio"; row()
  for (i = 1; i <= case_count; i++) {
    name = cases[i]
    for (j = 1; j <= (peer_count[name] ? peer_count[name] : 1); j++) {
      peer = peers[name, j]; key = name SUBSEP peer
      cell[1] = j == 1 ? name : ""; cell[2] = j == 1 ? sprintf("%.4g", median[name]) : ""
      cell[3] = j == 1 ? rate(name) : ""; cell[4] = peer; cell[5] = ""; cell[6] = ""
      if (is_number(peer_time[key])) {
        cell[5] = sprintf("%.4g", peer_time[key])
        cell[6] = sprintf("%.2f", peer_time[key] / median[name])
      } else if (peer != "") cell[4] = peer " (not here: " peer_rest[key] ")"
      row()
    }
  }
  end_table()
  print "\nA ratio is the peer's time over ours."
  print "\n## Low-rank layers over the frozen product\n"
  begin_table(4)
  cell[1] = "layer"; cell[2] = "extra time, ours"; cell[3] = "peer"; cell[4] = "its extra time"; row()
  for (i = 1; i <= case_count; i++) {
    name = cases[i]
    if (name !~ /^(lora|hydra):/) continue
    split(name, parts, /[:,]/)
    base = "frozen:" parts[2] "," parts[3] "," parts[4]
    if (!(base in median)) continue
    extra = median[name] / median[base] - 1
    for (j = 1; j <= (peer_count[name] ? peer_count[name] : 1); j++) {
      peer = peers[name, j]; key = name SUBSEP peer
      cell[1] = j == 1 ? name : ""; cell[2] = j == 1 ? sprintf("%.1f%%", 100 * extra) : ""
      cell[3] = peer; cell[4] = ""
      if (is_number(peer_time[key]) && is_number(peer_time[base, "torch"]))
        cell[4] = sprintf("%.1f%%", 100 * (peer_time[key] / peer_time[base, "torch"] - 1))
      row()
    }
  }
  end_table()
  print "\nEach side against its own frozen layer, forward and data gradient."
  for (i = 1; i <= case_count; i++) {
    name = cases[i]
    if (!(memory[name] + 0 > 0)) continue
    print "\nPeak memory of " name ": " gigabytes(memory[name])
    for (j = 1; j <= peer_count[name]; j++)
      if (peer_memory[name, peers[name, j]] + 0 > 0)
        print "; " peers[name, j] " " gigabytes(peer_memory[name, peers[name, j]])
  }
}

END { if (format == "json") json(); else markdown() }
