//! Where a request comes from.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::extract::ConnectInfo;
use http::request::Parts;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::headers::X_FORWARDED_FOR;

/// The proxies whose word is taken for where a request comes from: addresses and networks.
///
/// `X-Forwarded-For` counts only on connections from one of these, and is read from its end: every proxy adds the
/// address that it was called from, and the last one that is no proxy of ours is the caller's. What stands before that
/// was written by anybody. `Forwarded` (RFC 7239) is not looked at.
///
/// ```
/// use cratestack::TrustedProxies;
///
/// let proxies: TrustedProxies = "10.0.0.0/8, 2001:db8::1".parse()?;
/// assert!("10.0.0.0/33".parse::<TrustedProxies>().is_err());
/// # drop(proxies);
/// # Ok::<(), cratestack::NotAnAddress>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// A text that is neither an address nor a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAnAddress(String);

impl Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is neither an IP address nor a network like `10.0.0.0/8`", self.0)
    }
}

impl std::error::Error for NotAnAddress {}

impl FromStr for TrustedProxies {
    type Err = NotAnAddress;

    /// Addresses and networks with commas between them.
    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let address = part.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
            address.or_else(|_| part.parse::<IpNet>().map(canonical)).map_err(|_| NotAnAddress(part.to_owned()))
        };
        parts.map(network).collect::<Result<_, _>>().map(Self)
    }
}

/// The network of IPv4 that one of IPv6 stands for.
fn canonical(network: IpNet) -> IpNet {
    let mapped = |v6: &Ipv6Net| {
        let bits = v6.prefix_len().checked_sub(96)?;
        Ipv4Net::new(v6.addr().to_ipv4_mapped()?, bits).ok()
    };
    match &network {
        IpNet::V6(v6) => mapped(v6).map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    }
}

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address that a request comes from; `None` when nobody knows who has connected.
    pub(crate) fn client(&self, head: &Parts) -> Option<IpAddr> {
        let ConnectInfo(peer) = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
        let mut client = peer.ip().to_canonical();
        if !self.trusts(client) {
            return Some(client);
        }
        let lines = head.headers.get_all(&X_FORWARDED_FOR).iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|octet| *octet == b','));
        for hop in hops {
            // What is no address ends the way: nothing before it can be believed.
            let Some(address) = std::str::from_utf8(hop).ok().and_then(address) else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        Some(client)
    }
}

/// An address, which may have a port and brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.or_else(bracketed).or_else(with_port).map(|address| address.to_canonical())
}

/// What is counted together of addresses: one of IPv4, a network of IPv6, of which a household has one.
pub(crate) fn neighbourhood(address: IpAddr, prefix: u8) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => match IpNet::new(address.into(), prefix) {
            Ok(network) => network.trunc().to_string(),
            Err(_) => address.to_string(),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, lines: &[&str]) -> String {
        let mut request = http::Request::new(());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 9)));
        for line in lines {
            request.headers_mut().append(&X_FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: TrustedProxies = trusted.parse().unwrap();
        trusted.client(&request.into_parts().0).unwrap().to_string()
    }

    #[test]
    fn the_last_hop_that_is_no_proxy_of_ours() {
        let table: [(&str, &str, &[&str], &str); 15] = [
            ("::ffff:10.0.0.0/104", "10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("", "203.0.113.7", &[], "203.0.113.7"),
            ("", "203.0.113.7", &["198.51.100.1"], "203.0.113.7"),
            ("10.0.0.0/8", "203.0.113.7", &["198.51.100.1"], "203.0.113.7"),
            ("10.0.0.0/8", "10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // What a caller invents stands before what the proxy adds.
            ("10.0.0.0/8", "10.0.0.1", &["1.2.3.4, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.0/8", "10.0.0.1", &["1.2.3.4", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.0/8", "10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.0/8", "10.0.0.1", &["198.51.100.1, "], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("fd00::/8,10.0.0.1", "fd00::1", &["[2001:db8::7]:443, 10.0.0.1"], "2001:db8::7"),
            ("10.0.0.1", "10.0.0.1", &["198.51.100.1:8080"], "198.51.100.1"),
            ("::ffff:10.0.0.1", "10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
        ];
        for (trusted, peer, lines, wanted) in table {
            assert_eq!(client(trusted, peer, lines), wanted, "{trusted} {peer} {lines:?}");
        }
        assert_eq!(TrustedProxies::default().client(&http::Request::new(()).into_parts().0), None);
    }

    #[test]
    fn a_household_is_one() {
        let of = |text: &str, prefix| neighbourhood(text.parse().unwrap(), prefix);
        assert_eq!(of("198.51.100.1", 64), "198.51.100.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6", 64), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2:3:4:5:6", 64), of("2001:db8:1:2:ffff::", 64));
        assert_ne!(of("2001:db8:1:2::1", 64), of("2001:db8:1:3::1", 64));
        assert_eq!(of("2001:db8:1:2::1", 56), "2001:db8:1::/56");
    }
}
