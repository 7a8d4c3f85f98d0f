//! JPEG as libjpeg-turbo decodes it, which Pillow and so timm's evaluation use.
//!
//! JPEG leaves the exact arithmetic of the inverse transform, of chroma
//! upsampling and of colour conversion to the decoder, so two correct decoders
//! differ by a level or two in many pixels. That is enough to flip a close
//! prediction. This decoder makes the same choices as libjpeg-turbo with its
//! default settings: the accurate integer inverse DCT, triangle-filter ("fancy")
//! upsampling and 16-bit fixed-point YCbCr to RGB. Its output is the same, byte
//! for byte.
//!
//! It reads 8-bit baseline, extended sequential and progressive Huffman files
//! with one component, or with three whose luma is sampled 1x1, 2x1, 1x2 or 2x2
//! against chroma at 1x1. Anything else is [`Error::Unsupported`], so that a
//! caller can turn to a more general decoder. Damaged or truncated files are
//! [`Error::Corrupt`].

use std::fmt;
use std::num::Wrapping;

use super::decode::most_memory;

/// The largest picture accepted, in pixels. Pillow refuses the same size.
const MAX_PIXELS: usize = 178_956_970;

/// The most scans accepted; real progressive files have about ten. Each may pass over all of a large picture in a few bytes.
const MAX_SCANS: usize = 100;

/// The natural (row-major) position of each coefficient in zigzag order.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// A decoded picture: `width * height` pixels of interleaved 8-bit RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row from the top left.
    pub rgb: Vec<u8>,
}

/// Why a file was not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The file may be sound, but uses a feature outside this decoder's scope.
    Unsupported(&'static str),
    /// The file is not a JPEG, is damaged, or ends early.
    Corrupt(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(what) => write!(f, "unsupported JPEG: {what}"),
            Self::Corrupt(why) => write!(f, "corrupt JPEG: {why}"),
        }
    }
}

impl std::error::Error for Error {}

type Result<T> = std::result::Result<T, Error>;

fn corrupt<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Corrupt(why.into()))
}

/// Decodes a whole JPEG file to RGB; grey pictures get three equal channels.
pub fn decode(bytes: &[u8]) -> Result<Decoded> {
    let mut decoder = Decoder::new(bytes);
    decoder.read_file()?;
    decoder.render()
}

/// A Huffman code, ready for decoding.
struct Huffman {
    /// For every value of the next [`Self::FAST_BITS`] bits, the code's length
    /// (high byte) and symbol (low byte), or 0 where the code is longer.
    fast: Vec<u16>,
    /// For each length, one past its last code, left-justified in 16 bits.
    limit: [u32; 17],
    /// For each length, what to add to a code to get its place in `symbols`.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    const FAST_BITS: u32 = 9;

    /// Builds the code from the number of codes of each length and the symbols.
    fn new(counts: &[u8], symbols: &[u8]) -> Result<Self> {
        let mut table =
            Self { fast: vec![0; 1 << Self::FAST_BITS], limit: [0; 17], offset: [0; 17], symbols: symbols.to_vec() };
        let mut code = 0_u32;
        let mut index = 0_usize;
        for (length, &count) in (1_u32..).zip(counts) {
            table.offset[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                if length <= Self::FAST_BITS {
                    let shift = Self::FAST_BITS - length;
                    let first = (code << shift) as usize;
                    let entry = (length as u16) << 8 | u16::from(symbols[index]);
                    match table.fast.get_mut(first..first + (1 << shift)) {
                        Some(slots) => slots.fill(entry),
                        None => return corrupt("overfull Huffman table"),
                    }
                }
                code += 1;
                index += 1;
            }
            // The code of all ones is reserved, so a length never fills up.
            if count > 0 && code >= 1 << length {
                return corrupt("overfull Huffman table");
            }
            table.limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// Reads bits of entropy-coded data, up to the next marker.
#[derive(Clone, Copy)]
struct BitReader<'a> {
    data: &'a [u8],
    /// The next byte not yet in `bits`.
    pos: usize,
    /// Unread bits, from the most significant down.
    bits: u64,
    /// How many of `bits` count.
    count: u32,
    /// Of those counted, how many are zeros made up after the data's end.
    made_up: u32,
}

impl<'a> BitReader<'a> {
    fn new(data: &'a [u8], pos: usize) -> Self {
        Self { data, pos, bits: 0, count: 0, made_up: 0 }
    }

    /// Makes at least 32 bits available: enough for a code and its value.
    #[inline]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(chunk) = self.data.get(self.pos..self.pos + 8) {
            let word = u64::from_be_bytes(chunk.try_into().expect("eight bytes"));
            let has_ff = (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
            if has_ff == 0 {
                // Bits of a further, partial byte may come along. They are not
                // counted, and the next refill puts the same bits there again.
                self.bits |= word >> self.count;
                self.pos += (63 - self.count as usize) / 8;
                self.count |= 56;
                return;
            }
        }
        *self = self.refill_slowly();
    }

    /// Takes byte after byte, undoing byte stuffing and stopping at a marker.
    /// It works on a copy so that the original can stay in registers.
    #[cold]
    fn refill_slowly(mut self) -> Self {
        while self.count <= 56 {
            let mut byte = 0;
            match self.data.get(self.pos) {
                Some(0xFF) => {
                    let fill = self.data[self.pos..].iter().take_while(|&&b| b == 0xFF).count();
                    if self.data.get(self.pos + fill) == Some(&0) {
                        byte = 0xFF;
                        self.pos += fill + 1;
                    } else {
                        self.made_up += 8;
                    }
                }
                Some(&plain) => {
                    byte = plain;
                    self.pos += 1;
                }
                None => self.made_up += 8,
            }
            self.bits |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    /// Whether more bits were taken than the data had.
    fn overran(&self) -> bool {
        self.count < self.made_up
    }

    #[inline]
    fn take_unchecked(&mut self, n: u32) -> u32 {
        let value = (self.bits >> 1) >> (63 - n);
        self.bits <<= n;
        self.count -= n;
        value as u32
    }

    /// The next `n` bits (at most 16) as a number.
    #[inline]
    fn take(&mut self, n: u32) -> u32 {
        self.refill();
        self.take_unchecked(n)
    }

    #[inline]
    fn bit(&mut self) -> bool {
        self.take(1) != 0
    }

    /// The next symbol. At least 16 more bits are available after it.
    #[inline(always)]
    fn symbol(&mut self, table: &Huffman) -> Result<u8> {
        self.refill();
        let entry = table.fast[(self.bits >> (64 - Huffman::FAST_BITS)) as usize];
        if entry != 0 {
            self.take_unchecked(u32::from(entry >> 8));
            return Ok(entry as u8);
        }
        let (symbol, length) = self.long_code(table)?;
        self.take_unchecked(length);
        Ok(symbol)
    }

    /// The symbol and length of the next code, where it is a long one.
    #[cold]
    fn long_code(self, table: &Huffman) -> Result<(u8, u32)> {
        let window = (self.bits >> 48) as u32;
        for length in Huffman::FAST_BITS as usize + 1..=16 {
            if window < table.limit[length] {
                let code = (window >> (16 - length)) as i32;
                let index = (code + table.offset[length]) as usize;
                if let Some(&symbol) = table.symbols.get(index) {
                    return Ok((symbol, length as u32));
                }
                break;
            }
        }
        corrupt("bad Huffman code")
    }

    /// The signed value of `size` bits that follows a symbol.
    #[inline]
    fn value(&mut self, size: u32) -> i32 {
        // Values whose top bit is clear stand for the negative half.
        let negative = (!self.bits >> 63) as i32;
        let raw = self.take_unchecked(size) as i32;
        raw - negative * ((1 << size) - 1)
    }

    /// Skips to the restart marker numbered `number` and past it.
    fn restart(&mut self, number: u8) -> Result<()> {
        let (marker, pos) = next_marker(self.data, self.pos)?;
        if marker != 0xD0 + number {
            return corrupt("restart marker missing or out of order");
        }
        *self = Self::new(self.data, pos);
        Ok(())
    }
}

/// Finds the next marker from `pos` on: its code and the position after it.
fn next_marker(data: &[u8], mut pos: usize) -> Result<(u8, usize)> {
    while let Some(&byte) = data.get(pos) {
        pos += 1;
        if byte == 0xFF
            && let Some(&code) = data.get(pos)
            && code != 0
            && code != 0xFF
        {
            return Ok((code, pos + 1));
        }
    }
    corrupt("the file ends early")
}

/// One colour component.
struct Component {
    id: u8,
    /// Sampling factors.
    h: usize,
    v: usize,
    quant_index: usize,
    /// The quantisation table in natural order, as of the component's first scan.
    quant: Option<[u16; 64]>,
    /// The size in samples that belong to the picture.
    width: usize,
    height: usize,
    /// The size in blocks that belong to the picture, at least in part.
    blocks_wide: usize,
    blocks_high: usize,
    /// Blocks in a stored row: whole MCUs.
    stride: usize,
    /// Decoded samples, `stride * 8` in a row.
    plane: Vec<u8>,
    /// Coefficients of all blocks, for progressive files only.
    coefficients: Vec<i16>,
    /// For progressive files, each coefficient's lowest bit known so far.
    known: [Option<u8>; 64],
}

/// The frame header.
struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    /// The largest sampling factors.
    h_max: usize,
    v_max: usize,
    components: Vec<Component>,
}

/// A component's part in a scan: its index and its tables' numbers.
#[derive(Clone, Copy)]
struct ScanComponent {
    index: usize,
    dc_table: usize,
    ac_table: usize,
}

/// A scan header: which components, which coefficients, which bits.
struct Scan {
    components: Vec<ScanComponent>,
    /// First and last coefficient in zigzag order.
    first: usize,
    last: usize,
    /// Whether this scan adds a bit to coefficients sent before.
    refine: bool,
    /// The lowest bit sent.
    low: u8,
}

/// What the entropy decoder carries from block to block.
#[derive(Default)]
struct EntropyState {
    /// The previous DC value of each component.
    dc: [i32; 3],
    /// Blocks still to come that have no new coefficient in this band.
    eob_run: u32,
}

/// Everything read from the file so far.
struct Decoder<'a> {
    data: &'a [u8],
    pos: usize,
    quant: [Option<[u16; 64]>; 4],
    dc_tables: [Option<Huffman>; 4],
    ac_tables: [Option<Huffman>; 4],
    restart_interval: usize,
    jfif: bool,
    /// The colour transform an Adobe marker names.
    adobe: Option<u8>,
    frame: Option<Frame>,
}

impl<'a> Decoder<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            pos: 0,
            quant: [None; 4],
            dc_tables: [const { None }; 4],
            ac_tables: [const { None }; 4],
            restart_interval: 0,
            jfif: false,
            adobe: None,
            frame: None,
        }
    }

    /// Reads marker by marker to the end-of-image marker, decoding all scans.
    fn read_file(&mut self) -> Result<()> {
        if !self.data.starts_with(&[0xFF, 0xD8]) {
            return corrupt("no start-of-image marker");
        }
        self.pos = 2;
        let mut scans = 0;
        loop {
            let (marker, pos) = next_marker(self.data, self.pos)?;
            self.pos = pos;
            match marker {
                0xD9 => return Ok(()),
                0x01 | 0xD0..=0xD7 => continue,
                0xD8 => return corrupt("a second start-of-image marker"),
                _ => {}
            }
            let body = self.segment()?;
            match marker {
                0xC0..=0xC2 => self.read_frame(body, marker == 0xC2)?,
                0xC3 | 0xC5..=0xC7 | 0xCB | 0xCD..=0xCF => {
                    return Err(Error::Unsupported("lossless or hierarchical coding"));
                }
                0xC8..=0xCA | 0xCC => return Err(Error::Unsupported("arithmetic coding")),
                0xC4 => self.read_huffman(body)?,
                0xDB => self.read_quant(body)?,
                0xDD => match *body {
                    [high, low] => self.restart_interval = usize::from(u16::from_be_bytes([high, low])),
                    _ => return corrupt("bad restart interval segment"),
                },
                0xDA => {
                    scans += 1;
                    if scans > MAX_SCANS {
                        return Err(Error::Unsupported("very many scans"));
                    }
                    self.read_scan(body)?;
                }
                // Colour hints count only where they can still be seen in time.
                0xE0 if scans == 0 && body.len() >= 14 && body.starts_with(b"JFIF\0") => self.jfif = true,
                0xEE if scans == 0 && body.len() >= 12 && body.starts_with(b"Adobe") => {
                    self.adobe = Some(body[11]);
                }
                _ => {}
            }
        }
    }

    /// The body of the marker segment at the current position, which is passed.
    fn segment(&mut self) -> Result<&'a [u8]> {
        let rest = &self.data[self.pos..];
        if let [high, low, ..] = *rest {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if let Some(body) = rest.get(2..length) {
                self.pos += length;
                return Ok(body);
            }
            if length < 2 {
                return corrupt("bad segment length");
            }
        }
        corrupt("the file ends early")
    }

    fn read_quant(&mut self, mut body: &[u8]) -> Result<()> {
        while let Some((&head, rest)) = body.split_first() {
            let wide = head >> 4 != 0;
            let size = if wide { 128 } else { 64 };
            let index = usize::from(head & 15);
            if index > 3 || rest.len() < size {
                return corrupt("bad quantisation table");
            }
            let (values, rest) = rest.split_at(size);
            let mut table = [0; 64];
            for (i, &natural) in ZIGZAG.iter().enumerate() {
                table[usize::from(natural)] =
                    if wide { u16::from_be_bytes([values[2 * i], values[2 * i + 1]]) } else { u16::from(values[i]) };
            }
            self.quant[index] = Some(table);
            body = rest;
        }
        Ok(())
    }

    fn read_huffman(&mut self, mut body: &[u8]) -> Result<()> {
        while let Some((&head, rest)) = body.split_first() {
            let Some((counts, rest)) = rest.split_at_checked(16) else {
                return corrupt("bad Huffman table");
            };
            let total = counts.iter().map(|&n| usize::from(n)).sum();
            if total > 256 || total > rest.len() || head & 0xEC != 0 {
                return corrupt("bad Huffman table");
            }
            let (symbols, rest) = rest.split_at(total);
            let tables = if head & 0x10 == 0 { &mut self.dc_tables } else { &mut self.ac_tables };
            tables[usize::from(head & 3)] = Some(Huffman::new(counts, symbols)?);
            body = rest;
        }
        Ok(())
    }

    fn read_frame(&mut self, body: &[u8], progressive: bool) -> Result<()> {
        if self.frame.is_some() {
            return corrupt("a second frame header");
        }
        let [precision, y1, y0, x1, x0, count, ref specs @ ..] = *body else {
            return corrupt("bad frame header");
        };
        let height = usize::from(u16::from_be_bytes([y1, y0]));
        let width = usize::from(u16::from_be_bytes([x1, x0]));
        if specs.len() != usize::from(count) * 3 {
            return corrupt("bad frame header");
        }
        if precision != 8 {
            return Err(Error::Unsupported("samples of other than 8 bits"));
        }
        if width == 0 || height == 0 {
            return corrupt("an empty picture");
        }
        if width * height > MAX_PIXELS {
            return Err(Error::Unsupported("a very large picture"));
        }
        if count != 1 && count != 3 {
            return Err(Error::Unsupported("other than one or three components"));
        }
        let factors: Vec<(usize, usize)> =
            specs.chunks_exact(3).map(|s| (usize::from(s[1] >> 4), usize::from(s[1] & 15))).collect();
        if factors.iter().any(|&(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return corrupt("bad sampling factors");
        }
        let (h_max, v_max) = factors[0];
        if count == 3 && (h_max > 2 || v_max > 2 || factors[1..] != [(1, 1); 2]) {
            return Err(Error::Unsupported("unusual sampling factors"));
        }
        // Every block takes a bit or more, so a short file cannot ask for much.
        let blocks = width.div_ceil(8) * height.div_ceil(8);
        if blocks / 8 > self.data.len() {
            return corrupt("the file is too short for its picture");
        }
        let samples_of = |&(h, v): &(usize, usize)| width.div_ceil(8 * h_max) * h * height.div_ceil(8 * v_max) * v * 64;
        let samples: usize = factors.iter().map(samples_of).sum();
        // Beside the samples there are coefficients first, then pixels.
        let beside = if progressive { 2 * samples } else { 0 }.max(3 * width * height);
        if (samples + beside) as u64 > most_memory(self.data.len()) {
            return Err(Error::Unsupported("a picture of much more memory than its file's"));
        }
        let components = specs.chunks_exact(3).zip(&factors).map(|(spec, &(h, v))| {
            let size = ((width * h).div_ceil(h_max), (height * v).div_ceil(v_max));
            let stride = width.div_ceil(8 * h_max) * h;
            let samples = samples_of(&(h, v));
            Component {
                id: spec[0],
                h,
                v,
                quant_index: usize::from(spec[2]),
                quant: None,
                width: size.0,
                height: size.1,
                blocks_wide: size.0.div_ceil(8),
                blocks_high: size.1.div_ceil(8),
                stride,
                plane: vec![0; samples],
                coefficients: vec![0; if progressive { samples } else { 0 }],
                known: [None; 64],
            }
        });
        self.frame = Some(Frame { progressive, width, height, h_max, v_max, components: components.collect() });
        Ok(())
    }

    /// Reads a scan header and decodes the entropy-coded data after it.
    fn read_scan(&mut self, body: &[u8]) -> Result<()> {
        let Some(frame) = &mut self.frame else {
            return corrupt("a scan before the frame header");
        };
        let scan = parse_scan(body, frame)?;
        for part in &scan.components {
            let component = &mut frame.components[part.index];
            if component.quant.is_none() {
                let table = self.quant.get(component.quant_index).copied().flatten();
                component.quant = match table {
                    Some(table) => Some(table),
                    None => return corrupt("a quantisation table is missing"),
                };
            } else if !frame.progressive {
                return Err(Error::Unsupported("a component sent twice"));
            }
        }

        // A component alone in its scan is sent block by block, without padding.
        let alone = scan.components.len() == 1;
        let (units_wide, units_high) = if alone {
            let component = &frame.components[scan.components[0].index];
            (component.blocks_wide, component.blocks_high)
        } else {
            (frame.width.div_ceil(8 * frame.h_max), frame.height.div_ceil(8 * frame.v_max))
        };
        let mut reader = BitReader::new(self.data, self.pos);
        let mut state = EntropyState::default();
        for unit in 0..units_wide * units_high {
            if self.restart_interval > 0 && unit > 0 && unit % self.restart_interval == 0 {
                reader.restart((unit / self.restart_interval - 1) as u8 & 7)?;
                state = EntropyState::default();
            }
            let (row, column) = (unit / units_wide, unit % units_wide);
            for part in &scan.components {
                let tables = (self.dc_tables[part.dc_table].as_ref(), self.ac_tables[part.ac_table].as_ref());
                let component = &mut frame.components[part.index];
                let (h, v) = if alone { (1, 1) } else { (component.h, component.v) };
                for (y, x) in (0..v).flat_map(|y| (0..h).map(move |x| (row * v + y, column * h + x))) {
                    let dc = &mut state.dc[part.index];
                    if frame.progressive {
                        let start = (y * component.stride + x) * 64;
                        let block = &mut component.coefficients[start..start + 64];
                        let block = block.try_into().expect("a block of 64");
                        progressive_block(&mut reader, block, &scan, tables, dc, &mut state.eob_run)?;
                    } else {
                        let mut block = [0; 64];
                        let has_ac = sequential_block(&mut reader, &mut block, tables, dc)?;
                        component.store(&block, has_ac, y, x);
                    }
                }
            }
            if reader.overran() {
                return corrupt("a scan ends early");
            }
        }
        self.pos = reader.pos;
        Ok(())
    }

    /// Turns the decoded components into pixels.
    fn render(self) -> Result<Decoded> {
        let Some(mut frame) = self.frame else {
            return corrupt("no frame header");
        };
        for component in &mut frame.components {
            if component.quant.is_none() {
                return corrupt("a component is missing");
            }
            if frame.progressive {
                // libjpeg would smooth a picture whose low frequencies are not
                // known in full, which this decoder does not imitate.
                if component.known[..10].iter().any(|&low| low != Some(0)) {
                    return Err(Error::Unsupported("an unfinished progressive picture"));
                }
                component.transform_all();
            }
        }
        let is_rgb = match self.adobe {
            _ if self.jfif => false,
            Some(transform) => transform == 0,
            None => frame.components.iter().map(|c| c.id).eq(*b"RGB"),
        };
        let (width, height) = (frame.width, frame.height);
        let mut rgb = vec![0; width * height * 3];
        let mut rows: [Vec<u8>; 3] = std::array::from_fn(|_| vec![0; width + 1]);
        let mut sums = Vec::new();
        for (y, pixels) in rgb.chunks_exact_mut(width * 3).enumerate() {
            for (component, row) in frame.components.iter().zip(&mut rows) {
                component.upsample(&frame, y, row, &mut sums);
            }
            let [a, b, c] = &mut rows;
            if frame.components.len() == 1 {
                b.copy_from_slice(a);
                c.copy_from_slice(a);
            } else if !is_rgb {
                ycc_to_rgb(a, b, c);
            }
            for (((pixel, &r), &g), &b) in pixels.chunks_exact_mut(3).zip(&*a).zip(&*b).zip(&*c) {
                pixel.copy_from_slice(&[r, g, b]);
            }
        }
        Ok(Decoded { width, height, rgb })
    }
}

/// Reads a scan header and checks it against the frame.
fn parse_scan(body: &[u8], frame: &mut Frame) -> Result<Scan> {
    let Some((&count, rest)) = body.split_first() else {
        return corrupt("bad scan header");
    };
    let count = usize::from(count);
    if !(1..=frame.components.len()).contains(&count) || rest.len() != 2 * count + 3 {
        return corrupt("bad scan header");
    }
    let (specs, band) = rest.split_at(2 * count);
    let mut components: Vec<ScanComponent> = Vec::new();
    for spec in specs.chunks_exact(2) {
        let Some(index) = frame.components.iter().position(|c| c.id == spec[0]) else {
            return corrupt("a scan names an unknown component");
        };
        let (dc_table, ac_table) = (usize::from(spec[1] >> 4), usize::from(spec[1] & 15));
        if components.iter().any(|c| c.index == index) || dc_table > 3 || ac_table > 3 {
            return corrupt("bad scan header");
        }
        components.push(ScanComponent { index, dc_table, ac_table });
    }
    let (first, last) = (usize::from(band[0]), usize::from(band[1]));
    let (high, low) = (band[2] >> 4, band[2] & 15);
    let scan = Scan { components, first, last, refine: high != 0, low };
    if frame.progressive {
        let band_ok = if first == 0 { last == 0 } else { first <= last && last < 64 && count == 1 };
        if !band_ok || low > 13 || (scan.refine && high != low + 1) {
            return corrupt("bad progressive scan");
        }
        for part in &scan.components {
            for known in &mut frame.components[part.index].known[first..=last] {
                if *known != scan.refine.then_some(high) {
                    return Err(Error::Unsupported("progressive scans out of order"));
                }
                *known = Some(low);
            }
        }
    }
    Ok(scan)
}

/// The Huffman codes for DC and AC coefficients, where defined.
type Tables<'a> = (Option<&'a Huffman>, Option<&'a Huffman>);

const NO_TABLE: Error = Error::Unsupported("a Huffman table is not in the file");

/// Reads a DC difference and adds it to the previous value.
#[inline]
fn read_dc(reader: &mut BitReader, table: Option<&Huffman>, dc: &mut i32) -> Result<()> {
    let size = reader.symbol(table.ok_or(NO_TABLE)?)?;
    if size > 15 {
        return corrupt("bad DC coefficient");
    }
    *dc = dc.wrapping_add(reader.value(u32::from(size)));
    Ok(())
}

/// Decodes a block of a sequential scan; tells whether it has AC coefficients.
fn sequential_block(
    shared_reader: &mut BitReader,
    block: &mut [i16; 64],
    (dc_table, ac_table): Tables,
    dc: &mut i32,
) -> Result<bool> {
    let mut reader = *shared_reader;
    read_dc(&mut reader, dc_table, dc)?;
    block[0] = *dc as i16;
    let table = ac_table.ok_or(NO_TABLE)?;
    let mut k = 1;
    let mut has_ac = false;
    while k < 64 {
        let symbol = reader.symbol(table)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += run;
        let Some(&natural) = ZIGZAG.get(k) else {
            return corrupt("too many coefficients in a block");
        };
        block[usize::from(natural)] = reader.value(size) as i16;
        has_ac = true;
        k += 1;
    }
    *shared_reader = reader;
    Ok(has_ac)
}

/// Decodes a progressive scan's part of a block.
fn progressive_block(
    reader: &mut BitReader,
    block: &mut [i16; 64],
    scan: &Scan,
    (dc_table, ac_table): Tables,
    dc: &mut i32,
    eob_run: &mut u32,
) -> Result<()> {
    if scan.first > 0 {
        let table = ac_table.ok_or(NO_TABLE)?;
        return if scan.refine {
            refine_ac(reader, block, scan, table, eob_run)
        } else {
            first_ac(reader, block, scan, table, eob_run)
        };
    }
    if !scan.refine {
        read_dc(reader, dc_table, dc)?;
        block[0] = dc.wrapping_shl(u32::from(scan.low)) as i16;
    } else if reader.bit() {
        block[0] |= 1 << scan.low;
    }
    Ok(())
}

/// Decodes the first bits of a band of AC coefficients.
fn first_ac(
    reader: &mut BitReader,
    block: &mut [i16; 64],
    scan: &Scan,
    table: &Huffman,
    eob_run: &mut u32,
) -> Result<()> {
    if *eob_run > 0 {
        *eob_run -= 1;
        return Ok(());
    }
    let mut k = scan.first;
    while k <= scan.last {
        let symbol = reader.symbol(table)?;
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                // This block is the first of the run.
                *eob_run = (1 << run) + reader.take_unchecked(run) - 1;
                break;
            }
            k += 16;
            continue;
        }
        k += run as usize;
        if k > scan.last {
            return corrupt("too many coefficients in a block");
        }
        block[usize::from(ZIGZAG[k])] = (reader.value(size) << scan.low) as i16;
        k += 1;
    }
    Ok(())
}

/// Decodes one more bit of a band of AC coefficients.
fn refine_ac(
    reader: &mut BitReader,
    block: &mut [i16; 64],
    scan: &Scan,
    table: &Huffman,
    eob_run: &mut u32,
) -> Result<()> {
    let step = 1_i16 << scan.low;
    // A bit for each coefficient already nonzero moves it away from zero.
    let refine = |reader: &mut BitReader, coefficient: &mut i16| {
        if reader.bit() && *coefficient & step == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { step } else { -step });
        }
    };
    let mut k = scan.first;
    while *eob_run == 0 && k <= scan.last {
        let symbol = reader.symbol(table)?;
        let (mut run, size) = (u32::from(symbol >> 4), symbol & 15);
        let mut new = 0;
        match size {
            0 if run < 15 => {
                *eob_run = (1 << run) + reader.take_unchecked(run);
                break;
            }
            0 => {}
            1 => new = if reader.bit() { step } else { -step },
            _ => return corrupt("bad coefficient size in a refinement scan"),
        }
        // Pass `run` zeros, refining what is nonzero between, to the next zero.
        while k <= scan.last {
            let coefficient = &mut block[usize::from(ZIGZAG[k])];
            k += 1;
            if *coefficient != 0 {
                refine(reader, coefficient);
            } else if run > 0 {
                run -= 1;
            } else {
                *coefficient = new;
                new = 0;
                break;
            }
        }
        if new != 0 {
            return corrupt("too many coefficients in a block");
        }
    }
    if *eob_run > 0 {
        for &natural in ZIGZAG.get(k..=scan.last).unwrap_or_default() {
            let coefficient = &mut block[usize::from(natural)];
            if *coefficient != 0 {
                refine(reader, coefficient);
            }
        }
        *eob_run -= 1;
    }
    Ok(())
}

impl Component {
    /// Transforms a block and stores its samples at a block row and column.
    fn store(&mut self, block: &[i16; 64], has_ac: bool, row: usize, column: usize) {
        let quant = self.quant.as_ref().expect("set at the scan's start");
        let stride = self.stride * 8;
        let start = row * 8 * stride + column * 8;
        let rows = self.plane[start..].chunks_mut(stride).take(8);
        if has_ac {
            let samples = inverse_dct(block, quant);
            for (line, samples) in rows.zip(&samples) {
                line[..8].copy_from_slice(samples);
            }
        } else {
            // What the two passes come to where only the first value counts.
            let dc = block[0].wrapping_mul(quant[0] as i16);
            let sample = to_sample(((i32::from(dc << 2) + 16) >> 5) as i16);
            for line in rows {
                line[..8].fill(sample);
            }
        }
    }

    /// Transforms the stored coefficients of a progressive picture.
    fn transform_all(&mut self) {
        let coefficients = std::mem::take(&mut self.coefficients);
        for row in 0..self.blocks_high {
            for column in 0..self.blocks_wide {
                let start = (row * self.stride + column) * 64;
                let block = coefficients[start..start + 64].try_into().expect("a block of 64");
                self.store(block, block[1..] != [0; 63], row, column);
            }
        }
    }

    /// The samples of a row that belong to the picture.
    fn row(&self, y: usize) -> &[u8] {
        &self.plane[y * self.stride * 8..][..self.width]
    }

    /// Writes the picture's row `y` of this component at full resolution to
    /// `out`, which has room for one sample more. `sums` is scratch space.
    fn upsample(&self, frame: &Frame, y: usize, out: &mut [u8], sums: &mut Vec<u16>) {
        let (double_h, double_v) = (self.h < frame.h_max, self.v < frame.v_max);
        // The row of samples the output lies in, and the nearest one beside it.
        let (near, far) = if double_v {
            let near = y / 2;
            let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
            (self.row(near), self.row(far))
        } else {
            (self.row(y), self.row(y))
        };
        match (double_h, double_v) {
            (false, false) => out[..self.width].copy_from_slice(near),
            (false, true) => {
                let round = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((out, &near), &far) in out.iter_mut().zip(near).zip(far) {
                    *out = ((3 * u16::from(near) + u16::from(far) + round) >> 2) as u8;
                }
            }
            // Very narrow pictures are not worth a filter.
            (true, _) if self.width <= 2 => {
                for (pair, &sample) in out.chunks_mut(2).zip(near) {
                    pair.fill(sample);
                }
            }
            (true, false) => {
                sums.clear();
                sums.extend(near.iter().map(|&sample| u16::from(sample)));
                widen::<2>(sums, out, 1, 2);
            }
            (true, true) => {
                sums.clear();
                sums.extend(near.iter().zip(far).map(|(&n, &f)| 3 * u16::from(n) + u16::from(f)));
                widen::<4>(sums, out, 8, 7);
            }
        }
    }
}

/// Doubles a row with a triangle filter: each sample makes a left and a right
/// one, three quarters of itself and one of the neighbour on that side. The sums
/// get `left` or `right` for rounding and lose `SHIFT` bits.
fn widen<const SHIFT: u32>(samples: &[u16], out: &mut [u8], left: u16, right: u16) {
    let pair = |before: u16, this: u16, after: u16| {
        [((3 * this + before + left) >> SHIFT) as u8, ((3 * this + after + right) >> SHIFT) as u8]
    };
    let n = samples.len();
    let (head, tail) = out.split_at_mut(2);
    head.copy_from_slice(&pair(samples[0], samples[0], samples[1]));
    for (out, window) in tail.chunks_exact_mut(2).zip(samples.windows(3)) {
        out.copy_from_slice(&pair(window[0], window[1], window[2]));
    }
    let last = pair(samples[n - 2], samples[n - 1], samples[n - 1]);
    for (out, sample) in out[2 * n - 2..].iter_mut().zip(last) {
        *out = sample;
    }
}

/// A transformed value as a sample: moved up by 128 and limited to a byte.
fn to_sample(value: i16) -> u8 {
    (value.clamp(-128, 127) + 128) as u8
}

/// Dequantises a block and applies the inverse DCT.
fn inverse_dct(block: &[i16; 64], quant: &[u16; 64]) -> [[u8; 8]; 8] {
    let mut lanes = [[0_i16; 8]; 8];
    for (row, (block, quant)) in lanes.iter_mut().zip(block.chunks_exact(8).zip(quant.chunks_exact(8))) {
        for (lane, (&coefficient, &step)) in row.iter_mut().zip(block.iter().zip(quant)) {
            *lane = coefficient.wrapping_mul(step as i16);
        }
    }
    // Without vertical frequencies the first pass only shifts, wrapping at 16
    // bits, in libjpeg-turbo too.
    //
    // Between the passes, values carry two more bits than in the end. Each pass
    // also drops the 13 bits of the constants, and the last the factor of 8.
    let columns = if block[8..] == [0; 56] { [lanes[0].map(|value| value << 2); 8] } else { idct_pass::<11>(&lanes) };
    let columns = transpose(&columns);
    let rows = transpose(&idct_pass::<18>(&columns));
    let mut samples = [[0; 8]; 8];
    for (samples, row) in samples.iter_mut().zip(&rows) {
        for (sample, &value) in samples.iter_mut().zip(row) {
            *sample = to_sample(value);
        }
    }
    samples
}

fn transpose(lanes: &[[i16; 8]; 8]) -> [[i16; 8]; 8] {
    let mut output = [[0; 8]; 8];
    for (i, row) in output.iter_mut().enumerate() {
        for (value, lane) in row.iter_mut().zip(lanes) {
            *value = lane[i];
        }
    }
    output
}

/// One-dimensional inverse DCTs of eight columns side by side, by the method of
/// Loeffler, Ligtenberg and Moschytz with constants of 13 fractional bits. The
/// results lose `SHIFT` bits, rounded. Sums of two inputs wrap at 16 bits and
/// results saturate there, as in the vector code that libjpeg-turbo runs; this
/// shows only where a file holds coefficients that no picture has.
fn idct_pass<const SHIFT: usize>(input: &[[i16; 8]; 8]) -> [[i16; 8]; 8] {
    let scale = |x: i16, constant: i16| Wrapping(i32::from(x) * i32::from(constant));
    let mut output = [[0_i16; 8]; 8];
    for lane in 0..8 {
        let [x0, x1, x2, x3, x4, x5, x6, x7] = std::array::from_fn(|i| input[i][lane]);

        // Even part: a butterfly of 0 and 4, and a rotation of 2 and 6.
        let sum = Wrapping(i32::from(x0.wrapping_add(x4)) << 13);
        let difference = Wrapping(i32::from(x0.wrapping_sub(x4)) << 13);
        let rotated_sum = scale(x2, 4433 + 6270) + scale(x6, 4433);
        let rotated_difference = scale(x2, 4433) + scale(x6, 4433 - 15137);
        let even =
            [sum + rotated_sum, difference + rotated_difference, difference - rotated_difference, sum - rotated_sum];

        // Odd part: two sums shared by all four outputs, then one more term of
        // its own and one cross term for each.
        let (z3, z4) = (x7.wrapping_add(x3), x5.wrapping_add(x1));
        let shared_3 = scale(z3, 9633 - 16069) + scale(z4, 9633);
        let shared_4 = scale(z3, 9633) + scale(z4, 9633 - 3196);
        let odd = [
            scale(x1, 12299 - 7373) + scale(x7, -7373) + shared_4,
            scale(x3, 25172 - 20995) + scale(x5, -20995) + shared_3,
            scale(x5, 16819 - 20995) + scale(x3, -20995) + shared_4,
            scale(x7, 2446 - 7373) + scale(x1, -7373) + shared_3,
        ];

        let narrow = |value: Wrapping<i32>| {
            let rounded = (value + Wrapping(1 << (SHIFT - 1))) >> SHIFT;
            rounded.0.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
        };
        for i in 0..4 {
            output[i][lane] = narrow(even[i] + odd[i]);
            output[7 - i][lane] = narrow(even[i] - odd[i]);
        }
    }
    output
}

/// Converts rows of Y, Cb and Cr to red, green and blue in place, with the
/// factors of JFIF in 16-bit fixed point. Whole parts of the factors are split
/// off so that the rest fits 16 bits; the result is the same.
fn ycc_to_rgb(first: &mut [u8], second: &mut [u8], third: &mut [u8]) {
    let scale = |x: i16, factor: i16| i32::from(x) * i32::from(factor);
    let round = |x: i32| ((x + (1 << 15)) >> 16) as i16;
    let limit = |x: i16| x.clamp(0, 255) as u8;
    for ((a, b), c) in first.iter_mut().zip(second).zip(third) {
        let y = i16::from(*a);
        let (cb, cr) = (i16::from(*b) - 128, i16::from(*c) - 128);
        // 91881 = 65536 + 26345; 46802 = 65536 - 18734; 116130 = 2 * 65536 - 14942.
        *a = limit(y + cr + round(scale(cr, 26345)));
        *b = limit(y - cr + round(scale(cb, -22554) + scale(cr, 18734)));
        *c = limit(y + 2 * cb + round(scale(cb, -14942)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it shows, width and height, the FNV-1a hash of the RGB bytes Pillow
    /// decodes, and the file in hexadecimal.
    type Sample = (&'static str, (usize, usize), u64, &'static str);

    const SAMPLES: [Sample; 7] = [
        (
            "baseline 4:2:0",
            (19, 21),
            0x72e8_29f6_6645_344e,
            "ffd8ffe000104a46494600010100000100010000ffdb0043000d090a0b0a080d0b0a0b0e0e0d0f132015\
             13121213271c1e17202e2931302e292d2c333a4a3e333646372c2d405741464c4e525352323e5a615a50\
             604a51524fffdb0043010e0e0e131113261515264f352d354f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f\
             4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4fffc00011080015001303\
             012200021101031101ffc4001800010101010100000000000000000000000004050306ffc4001f100002\
             0202020301000000000000000000010200110331041213214161ffc40017010003010000000000000000\
             000000000001020300ffc400161101010100000000000000000000000000001101ffda000c0301000211\
             0311003f00c0056c5a802fe4acbaa71d6aaaf475a992997b9f45450ad6e50ce578cbd9801dae6c16d612\
             0e25218d7e189160ce461517a11294b1e7b86c5bb59d0044a5f2965f19d0889333a2e5702ae222107fff\
             d9",
        ),
        (
            "progressive 4:2:0",
            (21, 18),
            0x18fa_7a67_505e_9a04,
            "ffd8ffe000104a46494600010100000100010000ffdb0043000d090a0b0a080d0b0a0b0e0e0d0f132015\
             13121213271c1e17202e2931302e292d2c333a4a3e333646372c2d405741464c4e525352323e5a615a50\
             604a51524fffdb0043010e0e0e131113261515264f352d354f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f\
             4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4fffc20011080012001503\
             012200021101031101ffc40017000101010100000000000000000000000000030504ffc4001501010100\
             000000000000000000000000000100ffda000c03010002100310000001cfb7252b6d326054108fffc400\
             1c1000020202030000000000000000000000000102040342111231ffda000801010001050235aabb2e4d\
             6a648c2287e1ffc40014110100000000000000000000000000000020ffda0008010301013f011fffc400\
             161100030000000000000000000000000000001011ffda0008010201013f012bffc40018100002030000\
             00000000000000000000000110111220ffda0008010100063f02459b18c7ffc4001c1001000202030100\
             000000000000000000010011314110215171ffda0008010100013f21ebc96021afe6e16f22d0b7733cea\
             ae6b827fffda000c03010002000300000010841043ffc400161101010100000000000000000000000000\
             000111ffda0008010301013f1062abffc40017110101010100000000000000000000000001001021ffda\
             0008010201013f1027a8cfffc4001b10010003010101010000000000000000000100113121415171ffda\
             0008010100013f101b1602fc8d52aaf1cc8f65e7148fbf25fe228acd8b480ea1b87a06d5dcf1fa4ec8e4\
             6edeb3ffd9",
        ),
        (
            "baseline 4:2:2 with restart markers",
            (23, 9),
            0x7d43_fe61_0f2f_2e3c,
            "ffd8ffe000104a46494600010100000100010000ffdb0043000a07070807060a0808080b0a0a0b0e1810\
             0e0d0d0e1d15161118231f2524221f2221262b372f26293429212230413134393b3e3e3e252e4449433c\
             48373d3e3bffdb0043010a0b0b0e0d0e1c10101c3b2822283b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b\
             3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3bffc00011080009001703\
             012100021101031101ffc400160001010100000000000000000000000000060004ffc400221000010303\
             04030100000000000000000001000211030431072134c112417273ffc400160101010100000000000000\
             000000000000010002ffc4001811010101010100000000000000000000000001022131ffdd00040001ff\
             da000c03010002110311003f002c1cc96cb03448c05bcd4653b460111e5838c2617fffd04fa694d950dd\
             5504ecd68104c6e4fa52d6af448fffd11adcad8380cfd3a4c2ffd251a5bc5baf9676a4ebd4ffd9",
        ),
        (
            "baseline 4:4:0",
            (14, 29),
            0xb008_cc82_ac16_59ab,
            "ffd8ffe000104a46494600010100000100010000ffdb0043000d090a0b0a080d0b0a0b0e0e0d0f132015\
             13121213271c1e17202e2931302e292d2c333a4a3e333646372c2d405741464c4e525352323e5a615a50\
             604a51524fffdb0043010e0e0e131113261515264f352d354f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f\
             4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4fffc0001108001d000e03\
             011200021101031101ffc40017000101010100000000000000000000000006040507ffc4002210000201\
             03040301010000000000000000010211000431030506122141812232ffc4001601010101000000000000\
             00000000000000010200ffc400191101010003010000000000000000000000000102112131ffda000c03\
             010002110311003f00c005644a8027d5565d52dd622270718a6132e08aac6e3507a50041f1934c2b65ea\
             6383a6af73e0a88118cd50ce56d97b3003b4d0a2fe1fbcda6d96dae6f1d877ea140124e6694ea726da52\
             c92e45cf60ff00ca28fd1f9ebed344edd3ffd9",
        ),
        (
            "baseline 4:4:4",
            (11, 10),
            0x56c6_3c7d_84ce_a31e,
            "ffd8ffe000104a46494600010100000100010000ffdb0043000302020302020303030304030304050805\
             050404050a070706080c0a0c0c0b0a0b0b0d0e12100d0e110e0b0b1016101113141515150c0f17181614\
             1812141514ffdb00430103040405040509050509140d0b0d141414141414141414141414141414141414\
             1414141414141414141414141414141414141414141414141414141414141414ffc0001108000a000b03\
             011100021101031101ffc400160001010100000000000000000000000000060508ffc400201000020104\
             02030100000000000000000001030200041121123113225171ffc4001701000301000000000000000000\
             0000000000020301ffc40017110101010100000000000000000000000000010212ffda000c0301000211\
             0311003f00cf107db09a7c885a62671238803591ad5666a9a2eb572536ca82e2ae022319c67afca7e848\
             0525423729021100a32401d9fb5315495e8b888e863a14c23fffd9",
        ),
        (
            "progressive grey",
            (17, 13),
            0x7c9f_39be_1d33_c8c1,
            "ffd8ffe000104a46494600010100000100010000ffdb00430006040506050406060506070706080a100a\
             0a09090a140e0f0c1017141818171416161a1d251f1a1b231c1616202c20232627292a29191f2d302d28\
             3025282928ffc2000b08000d001101011100ffc400170000030100000000000000000000000000010405\
             06ffda0008010100000001ceb864307fffc4001a10000202030000000000000000000000000021021103\
             1213ffda000801010001050245d63da231f33fffc4001810000301010000000000000000000000000001\
             103141ffda0008010100063f02c11c8a7fffc4001d100002020105000000000000000000000001110021\
             311041516181ffda0008010100013f216c180b841049e3cd33e98e202566f14fffda0008010100000010\
             13ffc4001b100100020301010000000000000000000001001121314151f0ffda0008010100013f103122\
             8d15d83be0ad31f52172d9a888b8dda0ae4b7b3fffd9",
        ),
        (
            "too narrow to filter",
            (3, 5),
            0x7bce_95cc_39b1_6496,
            "ffd8ffe000104a46494600010100000100010000ffdb0043000302020302020303030304030304050805\
             050404050a070706080c0a0c0c0b0a0b0b0d0e12100d0e110e0b0b1016101113141515150c0f17181614\
             1812141514ffdb00430103040405040509050509140d0b0d141414141414141414141414141414141414\
             1414141414141414141414141414141414141414141414141414141414141414ffc00011080005000303\
             012200021101031101ffc4001500010100000000000000000000000000000008ffc4001c100002020203\
             00000000000000000000000001031102041231d1ffc40015010101000000000000000000000000000002\
             03ffc40014110100000000000000000000000000000000ffda000c03010002110311003f009d1ec456eb\
             5614baae18f8000aafffd9",
        ),
    ];

    fn file(sample: &Sample) -> Vec<u8> {
        let digit = |c: u8| char::from(c).to_digit(16).expect("a hexadecimal digit") as u8;
        sample.3.as_bytes().chunks_exact(2).map(|d| digit(d[0]) << 4 | digit(d[1])).collect()
    }

    fn fnv(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn pixels_are_those_of_pillow() {
        for sample in &SAMPLES {
            let decoded = decode(&file(sample)).expect(sample.0);
            assert_eq!((decoded.width, decoded.height), sample.1, "{}", sample.0);
            assert_eq!(fnv(&decoded.rgb), sample.2, "{}", sample.0);
        }
    }

    #[test]
    fn truncated_files_are_corrupt() {
        for sample in &SAMPLES {
            let file = file(sample);
            for length in 0..file.len() {
                let result = decode(&file[..length]);
                assert!(matches!(result, Err(Error::Corrupt(_))), "{} to {length}", sample.0);
            }
        }
    }

    #[test]
    fn bytes_outside_the_segments_are_skipped() {
        for sample in &SAMPLES {
            let mut file = file(sample);
            file.splice(file.len() - 2..file.len() - 2, [0x12, 0x34]);
            file.extend(b"more");
            assert_eq!(fnv(&decode(&file).expect(sample.0).rgb), sample.2, "{}", sample.0);
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for round in 0..2000 {
            let mut file = file(&SAMPLES[round % SAMPLES.len()]);
            for _ in 0..=random(4) {
                let at = random(file.len());
                file[at] = random(256) as u8;
            }
            let _ = decode(&file);
        }
        let noise: Vec<u8> = [0xFF, 0xD8].into_iter().chain((0..500).map(|_| random(256) as u8)).collect();
        assert!(decode(&noise).is_err());
        assert!(decode(&noise[2..]).is_err());
    }

    /// A file that is only a start of image and a frame header.
    fn header(marker: u8, body: &[u8]) -> Vec<u8> {
        let length = body.len() as u8 + 2;
        [&[0xFF, 0xD8, 0xFF, marker, 0, length], body].concat()
    }

    #[test]
    fn other_kinds_are_unsupported() {
        let grey = |precision| [precision, 0, 8, 0, 8, 1, 1, 0x11, 0];
        let colour = |luma| [8, 0, 8, 0, 8, 3, 1, luma, 0, 2, 0x11, 0, 3, 0x11, 0];
        let cmyk = [8, 0, 8, 0, 8, 4, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0, 4, 0x11, 0];
        for file in [
            header(0xC9, &grey(8)),
            header(0xC3, &grey(8)),
            header(0xC1, &grey(12)),
            header(0xC0, &colour(0x41)),
            header(0xC0, &cmyk),
        ] {
            assert!(matches!(decode(&file), Err(Error::Unsupported(_))), "{file:?}");
        }
    }

    #[test]
    fn a_short_file_cannot_ask_for_a_large_picture() {
        let side = 13_000_u16.to_be_bytes();
        let large = header(0xC2, &[8, side[0], side[1], side[0], side[1], 1, 1, 0x11, 0]);
        assert!(matches!(decode(&large), Err(Error::Corrupt(_))));
        // Long enough for the blocks, but of three components with their coefficients.
        let colour = [8, side[0], side[1], side[0], side[1], 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0];
        let large = [header(0xC2, &colour), vec![0; 400_000]].concat();
        assert!(matches!(decode(&large), Err(Error::Unsupported(what)) if what.contains("memory")));
        let larger = header(0xC2, &[8, 255, 255, 255, 255, 1, 1, 0x11, 0]);
        assert!(matches!(decode(&larger), Err(Error::Unsupported(_))));
    }
}
