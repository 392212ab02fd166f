//! A Debian package written here, byte for byte the same wherever it is made: no root, no dpkg.
//!
//! Source: deb(5), deb-control(5), Debian Policy 4.6 (chapters 5, 9, 12).

use std::io::Write;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use md5::{Digest, Md5};

/// A file of the package.
pub struct Entry {
    /// Path without the leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// A file that everyone may read.
    pub fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, bytes: bytes.into() }
    }
}

/// The package's own facts.
pub struct Package {
    /// Its version as Debian orders them.
    pub version: String,
    /// Debian's name of the architecture.
    pub arch: String,
    /// Seconds since 1970 that every file is dated with.
    pub epoch: u64,
    /// `Maintainer`, with an address.
    pub maintainer: String,
    /// `Homepage`.
    pub homepage: String,
    /// What is installed, in any order.
    pub files: Vec<Entry>,
}

impl Package {
    /// `ar(debian-binary, control.tar.gz, data.tar.gz)`.
    ///
    /// # Errors
    /// If a path is too long for a tar header.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut files: Vec<&Entry> = self.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let control = [Entry::new("control", self.control()), Entry::new("md5sums", md5sums(&files))];
        let control = self.tar(&control.iter().collect::<Vec<_>>())?;
        let data = self.tar(&files)?;
        let mut archive = ar::Builder::new(Vec::new());
        for (name, bytes) in [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", control), ("data.tar.gz", data)] {
            let mut header = ar::Header::new(name.into(), bytes.len() as u64);
            header.set_mode(0o100_644);
            header.set_mtime(self.epoch);
            archive.append(&header, bytes.as_slice())?;
        }
        Ok(archive.into_inner()?)
    }

    fn control(&self) -> String {
        let kib: u64 = self.files.iter().map(|file| (file.bytes.len() as u64).div_ceil(1024)).sum();
        let Self { version, arch, maintainer, homepage, .. } = self;
        format!(
            "Package: bourn\nVersion: {version}\nArchitecture: {arch}\nMaintainer: {maintainer}\nInstalled-Size: {kib}\n\
             Section: science\nPriority: optional\nHomepage: {homepage}\n\
             Description: small language models on small ARM boards\n \
             Bourn packs a checkpoint (Hugging Face or GGUF) into one int4 image and runs\n \
             it on the board itself, with kernels for cores with and without dot product:\n \
             Raspberry Pi Zero 2 W to 5, Jetson, RK3588. The program is static and needs\n \
             nothing else; it chooses its kernels when it starts.\n"
        )
    }

    /// A gzipped tar of the files and every folder above them, owned by root, dated alike.
    fn tar(&self, files: &[&Entry]) -> Result<Vec<u8>> {
        let gzip = GzBuilder::new().mtime(0).operating_system(3).write(Vec::new(), Compression::best());
        let mut tar = tar::Builder::new(gzip);
        let mut made = Vec::new();
        for file in files {
            for (end, _) in file.path.match_indices('/') {
                let folder = &file.path[..=end];
                if !made.iter().any(|have| have == folder) {
                    self.append(&mut tar, folder, 0o755, &[])?;
                    made.push(folder.to_owned());
                }
            }
            self.append(&mut tar, &file.path, file.mode, &file.bytes)?;
        }
        Ok(tar.into_inner()?.finish()?)
    }

    fn append(&self, tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        let folder = path.ends_with('/');
        header.set_entry_type(if folder { tar::EntryType::Directory } else { tar::EntryType::Regular });
        // The names of a package begin with ./ , which `set_path` would take away.
        let name = format!("./{path}");
        let field = &mut header.as_old_mut().name;
        anyhow::ensure!(name.len() < field.len(), "{path}: need a path of at most {} bytes", field.len() - 3);
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_mtime(self.epoch);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        Ok(tar.append(&header, bytes)?)
    }
}

fn md5sums(files: &[&Entry]) -> String {
    files.iter().map(|file| format!("{}  {}\n", hex(&Md5::digest(&file.bytes)), file.path)).collect()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gzipped as Debian wants papers to be: best compression, no name, no date.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).operating_system(3).write(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn package() -> Package {
        let mut program = Entry::new("usr/bin/bourn", "program");
        program.mode = 0o755;
        Package {
            version: "1.0".to_owned(),
            arch: "arm64".to_owned(),
            epoch: 1_700_000_000,
            maintainer: "A <a@example.org>".to_owned(),
            homepage: "https://example.org".to_owned(),
            files: vec![program, Entry::new("usr/share/doc/bourn/copyright", "free")],
        }
    }

    #[test]
    fn holds_control_and_data_in_dpkg_order() {
        let bytes = package().bytes().unwrap();
        assert_eq!(bytes, package().bytes().unwrap());
        let mut archive = ar::Archive::new(bytes.as_slice());
        let mut names = Vec::new();
        let mut listed = Vec::new();
        while let Some(member) = archive.next_entry() {
            let mut member = member.unwrap();
            let name = String::from_utf8(member.header().identifier().to_vec()).unwrap();
            let mut inside = Vec::new();
            member.read_to_end(&mut inside).unwrap();
            if name.ends_with(".tar.gz") {
                let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(inside.as_slice()));
                for file in tar.entries().unwrap() {
                    let file = file.unwrap();
                    let path = String::from_utf8(file.path_bytes().into_owned()).unwrap();
                    listed.push((path, file.header().mode().unwrap(), file.header().mtime().unwrap()));
                }
            }
            names.push(name);
        }
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
        let expected: Vec<_> = [
            ("./control", 0o644),
            ("./md5sums", 0o644),
            ("./usr/", 0o755),
            ("./usr/bin/", 0o755),
            ("./usr/bin/bourn", 0o755),
            ("./usr/share/", 0o755),
            ("./usr/share/doc/", 0o755),
            ("./usr/share/doc/bourn/", 0o755),
            ("./usr/share/doc/bourn/copyright", 0o644),
        ]
        .map(|(path, mode)| (path.to_owned(), mode, 1_700_000_000))
        .into();
        assert_eq!(listed, expected);
    }

    #[test]
    fn rejects_a_path_that_tar_cannot_hold() {
        let mut package = package();
        package.files.push(Entry::new("a".repeat(120), ""));
        assert!(package.bytes().unwrap_err().to_string().contains("at most 97 bytes"));
    }
}
