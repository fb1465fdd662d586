//! Geometry: WKB becomes WKT, which Elasticsearch's `geo_point` and `geo_shape` take. Pure.

/// Collections nest; deeper than this is no geometry that anybody drew.
const DEPTH_MAX: usize = 16;
/// The flags of PostGIS: a third and a fourth coordinate, and a number of the coordinate system.
const Z: u32 = 0x8000_0000;
const M: u32 = 0x4000_0000;
const SRID: u32 = 0x2000_0000;

/// The text of a geometry; `None`: the bytes are none.
pub(crate) fn text(wkb: &[u8]) -> Option<String> {
    let mut text = String::new();
    Wkb { rest: wkb }.geometry(&mut text, DEPTH_MAX, true)?;
    Some(text)
}

struct Wkb<'a> {
    rest: &'a [u8],
}

impl Wkb<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_at_checked(N)?;
        self.rest = rest;
        taken.try_into().ok()
    }

    fn number(&mut self, little: bool) -> Option<u32> {
        let bytes = self.take()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn coordinate(&mut self, little: bool) -> Option<f64> {
        let bytes = self.take()?;
        Some(if little { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) })
    }

    /// A geometry with its name, or the part of a collection of one kind without.
    fn geometry(&mut self, out: &mut String, depth_left: usize, named: bool) -> Option<()> {
        let depth_left = depth_left.checked_sub(1)?;
        let little = self.take::<1>()? == [1];
        let kind = self.number(little)?;
        if kind & SRID != 0 {
            self.number(little)?;
        }
        let (kind, more) = (kind & !(Z | M | SRID), kind & (Z | M));
        // ISO counts a third coordinate as thousands, PostGIS sets flags.
        let coordinates = 2 + (more.count_ones() as usize) + [0, 1, 1, 2].get((kind / 1000) as usize)?;
        let (name, kind) = (
            ["POINT", "LINESTRING", "POLYGON", "MULTIPOINT", "MULTILINESTRING", "MULTIPOLYGON", "GEOMETRYCOLLECTION"]
                .get((kind % 1000).checked_sub(1)? as usize)?,
            kind % 1000,
        );
        if named {
            out.push_str(name);
            out.push(' ');
        }
        match kind {
            1 => self.points(out, little, coordinates, 1),
            2 => {
                let count = self.number(little)?;
                self.points(out, little, coordinates, count)
            }
            3 => self.parts(out, little, |wkb, out| {
                let count = wkb.number(little)?;
                wkb.points(out, little, coordinates, count)
            }),
            4..=6 => self.parts(out, little, |wkb, out| wkb.geometry(out, depth_left, false)),
            _ => self.parts(out, little, |wkb, out| wkb.geometry(out, depth_left, true)),
        }
    }

    fn points(&mut self, out: &mut String, little: bool, coordinates: usize, count: u32) -> Option<()> {
        if count == 0 {
            out.push_str("EMPTY");
            return Some(());
        }
        for number in 0..count {
            out.push_str(if number == 0 { "(" } else { ", " });
            for place in 0..coordinates {
                let coordinate = self.coordinate(little)?;
                out.push_str(if place > 0 { " " } else { "" });
                out.push_str(&coordinate.to_string());
            }
        }
        out.push(')');
        Some(())
    }

    fn parts(
        &mut self,
        out: &mut String,
        little: bool,
        mut part: impl FnMut(&mut Self, &mut String) -> Option<()>,
    ) -> Option<()> {
        let count = self.number(little)?;
        if count == 0 {
            out.push_str("EMPTY");
            return Some(());
        }
        for number in 0..count {
            out.push_str(if number == 0 { "(" } else { ", " });
            part(self, out)?;
        }
        out.push(')');
        Some(())
    }
}
