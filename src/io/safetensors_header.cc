#include "io/safetensors_header.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <unordered_set>

#include "runtime/failure.h"

namespace polylora::io {

namespace {

struct Dtype {
  const char* name;
  unsigned bits;
};
constexpr Dtype kDtypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Failure("Format", path + " is not a valid safetensors file: " + what).with("file", path);
}

// A name for a message: quoted, and not longer than a line.
std::string quoted(const std::string& text) {
  if (text.size() <= 200) return json_string(text);
  size_t end = 200;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return json_string(text.substr(0, end)) + "...";
}

// Offset of the first byte that is not UTF-8, or npos. No overlong forms, no surrogates, at most
// U+10FFFF.
size_t invalid_utf8(const std::string& text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  for (size_t i = 0; i < text.size();) {
    const unsigned char lead = bytes[i];
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t count = lead >= 0xC2 && lead < 0xE0   ? 1
                         : lead >= 0xE0 && lead < 0xF0 ? 2
                         : lead >= 0xF0 && lead < 0xF5 ? 3
                                                       : 0;
    if (count == 0 || i + count >= text.size()) return i;
    const unsigned char second = bytes[i + 1];
    const unsigned char least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (second < least || second > most) return i;
    for (size_t k = 2; k <= count; ++k)
      if ((bytes[i + k] & 0xC0) != 0x80) return i;
    i += count + 1;
  }
  return std::string::npos;
}

// A strict reader of the one JSON shape that a header has.
class Reader {
 public:
  Reader(const std::string& path, const std::string& text) : path_(path), text_(text) {}

  [[noreturn]] void bad(const std::string& what) {
    fail(path_, "its header is not valid at byte " + std::to_string(at_) + ": " + what);
  }

  void space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }
  bool take(char c) {
    space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) bad(std::string("'") + c + "' was expected");
  }
  bool at_end() {
    space();
    return at_ == text_.size();
  }

  // Calls member(key) after each key of an object.
  template <class Member>
  void object(Member&& member) {
    expect('{');
    if (take('}')) return;
    do {
      space();
      std::string key = string();
      expect(':');
      member(std::move(key));
    } while (take(','));
    expect('}');
  }

  template <class Element>
  void array(Element&& element) {
    expect('[');
    if (take(']')) return;
    do element();
    while (take(','));
    expect(']');
  }

  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) bad("a string does not end");
      const unsigned char c = static_cast<unsigned char>(text_[at_++]);
      if (c == '"') return out;
      if (c < 0x20) bad("a string holds a control character");
      if (c != '\\') {
        out += char(c);
        continue;
      }
      if (at_ >= text_.size()) bad("a string does not end");
      switch (text_[at_++]) {
        case '"':
          out += '"';
          break;
        case '\\':
          out += '\\';
          break;
        case '/':
          out += '/';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'n':
          out += '\n';
          break;
        case 'r':
          out += '\r';
          break;
        case 't':
          out += '\t';
          break;
        case 'u':
          escape(&out);
          break;
        default:
          bad("a string holds an unknown escape");
      }
    }
  }

  // An integer from 0 to 2^53.
  uint64_t integer() {
    space();
    const size_t start = at_;
    uint64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + uint64_t(text_[at_++] - '0');
      if (value > kMostFileBytes) bad("a number is above 2^53");
    }
    if (at_ == start || (text_[start] == '0' && at_ > start + 1))
      bad("an integer that is not negative was expected");
    if (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E'))
      bad("an integer was expected, not a fraction");
    return value;
  }

 private:
  uint32_t hex() {
    if (at_ + 4 > text_.size()) bad("a string does not end");
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = text_[at_++];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) bad("a string holds an unknown escape");
      value = value * 16 + uint32_t(digit);
    }
    return value;
  }

  void escape(std::string* out) {
    uint32_t code = hex();
    if (code >= 0xDC00 && code < 0xE000) bad("a string holds half a surrogate pair");
    if (code >= 0xD800 && code < 0xDC00) {
      if (at_ + 2 > text_.size() || text_[at_] != '\\' || text_[at_ + 1] != 'u')
        bad("a string holds half a surrogate pair");
      at_ += 2;
      const uint32_t low = hex();
      if (low < 0xDC00 || low >= 0xE000) bad("a string holds half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code < 0x80) {
      *out += char(code);
    } else if (code < 0x800) {
      *out += char(0xC0 | (code >> 6));
      *out += char(0x80 | (code & 63));
    } else if (code < 0x10000) {
      *out += char(0xE0 | (code >> 12));
      *out += char(0x80 | ((code >> 6) & 63));
      *out += char(0x80 | (code & 63));
    } else {
      *out += char(0xF0 | (code >> 18));
      *out += char(0x80 | ((code >> 12) & 63));
      *out += char(0x80 | ((code >> 6) & 63));
      *out += char(0x80 | (code & 63));
    }
  }

  const std::string& path_;
  const std::string& text_;
  size_t at_ = 0;
};

void read_entry(Reader& reader, const std::string& path, SafetensorsEntry* entry) {
  const std::string name = quoted(entry->name);
  bool has_dtype = false, has_shape = false;
  std::vector<uint64_t> offsets;
  bool has_offsets = false;
  reader.object([&](const std::string& key) {
    bool* has = key == "dtype"          ? &has_dtype
                : key == "shape"        ? &has_shape
                : key == "data_offsets" ? &has_offsets
                                        : nullptr;
    if (!has) reader.bad("tensor " + name + " has an unknown key " + quoted(key));
    if (*has) reader.bad("tensor " + name + " has the key " + key + " twice");
    *has = true;
    if (key == "dtype")
      entry->dtype = reader.string();
    else
      reader.array([&] { (key == "shape" ? entry->shape : offsets).push_back(reader.integer()); });
  });
  if (!has_dtype || !has_shape || !has_offsets)
    fail(path, "tensor " + name + " has no " +
                   (!has_dtype   ? "dtype"
                    : !has_shape ? "shape"
                                 : "data_offsets"));
  const unsigned bits = dtype_bits(entry->dtype);
  if (bits == 0) fail(path, "tensor " + name + " has the unknown dtype " + quoted(entry->dtype));
  if (offsets.size() != 2)
    fail(path, "tensor " + name + " has " + std::to_string(offsets.size()) +
                   " data_offsets; 2 are needed");
  entry->begin = offsets[0];
  entry->end = offsets[1];
  if (entry->end < entry->begin) fail(path, "tensor " + name + " ends before it begins");
  // Any zero makes the size 0, whatever overflows beside it.
  uint64_t total = bits;
  if (std::find(entry->shape.begin(), entry->shape.end(), 0u) != entry->shape.end()) total = 0;
  for (const uint64_t size : entry->shape)
    if (total != 0 && __builtin_mul_overflow(total, size, &total))
      fail(path, "the size of tensor " + name + " overflows");
  if (total % 8 != 0) fail(path, "tensor " + name + " does not end at a whole byte");
  if (entry->end - entry->begin != total / 8)
    fail(path, "tensor " + name + " has " + std::to_string(entry->end - entry->begin) +
                   " bytes, but its shape and dtype need " + std::to_string(total / 8));
}

void read_metadata(Reader& reader, SafetensorsHeader* header) {
  std::unordered_set<std::string> keys;
  reader.object([&](std::string key) {
    if (!keys.insert(key).second) reader.bad("__metadata__ has the key " + quoted(key) + " twice");
    header->metadata.emplace_back(std::move(key), reader.string());
  });
}

}  // namespace

unsigned dtype_bits(const std::string& dtype) {
  for (const Dtype& known : kDtypes)
    if (dtype == known.name) return known.bits;
  return 0;
}

uint64_t parse_header_size(const std::string& path, const unsigned char* bytes,
                           uint64_t file_size) {
  if (file_size > kMostFileBytes) fail(path, "it is larger than 2^53 bytes");
  uint64_t size = 0;
  for (int i = 7; i >= 0; --i) size = size << 8 | bytes[i];
  if (size > kMostHeaderBytes)
    fail(path, "its header has " + std::to_string(size) + " bytes; at most " +
                   std::to_string(kMostHeaderBytes) + " are allowed");
  if (size > file_size - 8)
    fail(path, "its header has " + std::to_string(size) + " bytes, past the end of the file of " +
                   std::to_string(file_size) + " bytes");
  return size;
}

SafetensorsHeader parse_header(const std::string& path, const std::string& text,
                               uint64_t file_size) {
  if (const size_t at = invalid_utf8(text); at != std::string::npos)
    fail(path, "its header is not valid UTF-8 at byte " + std::to_string(at));
  SafetensorsHeader header;
  Reader reader(path, text);
  std::unordered_set<std::string> names;
  if (text.empty() || text[0] != '{') reader.bad("it must begin with '{'");
  reader.object([&](std::string name) {
    if (!names.insert(name).second) reader.bad("the name " + quoted(name) + " is there twice");
    if (name == "__metadata__") {
      read_metadata(reader, &header);
      return;
    }
    header.entries.emplace_back();
    header.entries.back().name = std::move(name);
    read_entry(reader, path, &header.entries.back());
  });
  if (!reader.at_end()) reader.bad("nothing may follow the object");

  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
                     return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
                   });
  const uint64_t buffer = 8 + text.size();
  uint64_t position = 0;
  for (SafetensorsEntry& entry : header.entries) {
    if (entry.begin != position)
      fail(path, "tensor " + quoted(entry.name) + " begins at byte " + std::to_string(entry.begin) +
                     " of the buffer, which leaves " +
                     (entry.begin > position ? "a gap after" : "an overlap before") + " byte " +
                     std::to_string(position));
    position = entry.end;
    entry.begin += buffer;
    entry.end += buffer;
  }
  if (buffer + position != file_size)
    fail(path, "its tensors end at byte " + std::to_string(buffer + position) +
                   ", but the file has " + std::to_string(file_size) + " bytes");
  return header;
}

std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace polylora::io
