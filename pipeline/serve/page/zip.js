// An archive of files that are compressed already: stored, names in UTF-8 (PKWARE's APPNOTE, sections 4.3.7 to 4.3.16).
const CRCS = Uint32Array.from({length: 256}, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRCS[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

// Little-endian numbers of 2 and 4 bytes.
function packed(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let place = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(place, value, true); else view.setUint32(place, value, true);
    place += size;
  }
  return view.buffer;
}

// Files with the same name get numbers.
async function zip(files) {
  const parts = [], central = [], taken = new Set();
  let place = 0, length = 0;
  for (const [given, blob] of files) {
    let name = given;
    for (let number = 2; taken.has(name); number++) name = given.replace(/(\.[^.]*)?$/, `-${number}$1`);
    taken.add(name);
    const bytes = new Uint8Array(await blob.arrayBuffer()), title = new TextEncoder().encode(name);
    const shared = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21], [4, crc32(bytes)], [4, bytes.length], [4, bytes.length], [2, title.length], [2, 0]];
    parts.push(packed([4, 0x04034b50], ...shared), title, bytes);
    central.push(packed([4, 0x02014b50], [2, 20], ...shared, [2, 0], [2, 0], [2, 0], [4, 0], [4, place]), title);
    place += 30 + title.length + bytes.length;
    length += 46 + title.length;
  }
  const end = packed([4, 0x06054b50], [2, 0], [2, 0], [2, taken.size], [2, taken.size], [4, length], [4, place], [2, 0]);
  return new Blob([...parts, ...central, end], {type: "application/zip"});
}
