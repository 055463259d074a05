# all scalars
import sys,random; from lib import *
port=int(sys.argv[1]); db=sys.argv[2]
S=Server(port,db)
ann=token({"id":"ann","role":"user","tenantId":"t"})
import base64
rnd=random.Random(int(sys.argv[3]) if len(sys.argv)>3 else 1)
def text():
    pool=['','a','"','\\','\n','\r','\t','\b','\f','\x01','\x1f','\x7f','\u0080','\u2028','\u2029','\ufeff','\uffff','\U0010ffff','😀','é','e\u0301','</script>','%s','$1','{}','~cratestack-version~','/',"'","''"]
    return ''.join(rnd.choice(pool) for _ in range(rnd.randint(0,6)))
def dec(i,f):
    s=rnd.choice(['','-'])+str(rnd.choice([0,1,10,10**(i-1),int('9'*i),rnd.randint(0,10**i-1)]))
    if f and rnd.random()<.8: s+='.'+str(rnd.randint(0,10**min(f,30)-1)).rjust(rnd.randint(1,min(f,30)),'0')[:f]
    return s
def mk():
    d={"s":text(),"i":rnd.choice([0,-1,2**53-1,-(2**53-1),rnd.randint(-10**9,10**9)]),"b":str(rnd.choice([0,-1,2**63-1,-2**63,10])),"f":rnd.random()<.5,
     "d":rnd.choice([dec(20,20),'0','-0','-0.0','0.00','1e3','1E-7','-'+'9'*500+'.'+'1'*500,'100','100.10','0.'+'0'*900+'1']),"e":dec(14,4),
     "t":rnd.choice(['0001-01-01T00:00:00Z','9999-12-31T23:59:59.999999Z','1883-11-18T12:03:58Z','1969-12-31T23:59:59.999999Z','2024-02-29T12:00:00+14:00','2016-12-31T23:59:59.123456-12:00','1582-10-10T00:00:00Z']),
     "y":rnd.choice(['0001-01-01','9999-12-31','1582-10-10','1900-02-28','2000-02-29']),"u":str(uuid.UUID(int=rnd.getrandbits(128))),
     "x":base64.b64encode(rnd.randbytes(rnd.choice([0,1,2,3,57,58,76,77,200]))).decode(),"m":rnd.choice(['good','bad']),
     "ls":[text() for _ in range(rnd.randint(0,3))],"li":[rnd.choice([0,-1,2**53-1]) for _ in range(rnd.randint(0,3))],"lu":[str(uuid.UUID(int=rnd.getrandbits(128))) for _ in range(rnd.randint(0,2))]}
    for o,src in (('so','s'),('io','i'),('bo','b'),('fo','f'),('dd','d'),('eo','e'),('to','t'),('yo','y'),('xo','x'),('mo','m')):
        c=rnd.random()
        if c<.3: d[o]=None
        elif c<.8: d[o]=d[src]
    return d
bad=0
for n in range(150):
    d=mk(); u=str(uuid.UUID(int=rnd.getrandbits(128)))
    d['id']=u; d['c']='c'+'a'*24
    k=str(uuid.uuid4())
    b=req(port,'POST','/alls',d,key=k,tok=ann); 
    if b[0]!=201: print(b[0],b[2][:300]); continue
    c=req(port,'POST','/alls',d,key=k,tok=ann)
    g=req(port,'GET','/alls/'+u,tok=ann)
    req(port,'DELETE','/alls/'+u,tok=ann)
    a=req(port,'POST','/alls',d,tok=ann)
    if not(vis(a)==vis(b)==vis(c)) or g[2]!=b[2]:
        bad+=1
        if bad<4: print('DIFF\n',vis(a),'\n',vis(b),'\n',vis(c))
    # patch
    p=mk(); p.pop('id',None)
    k=str(uuid.uuid4())
    b=req(port,'PATCH','/alls/'+u,p,key=k,tok=ann); c=req(port,'PATCH','/alls/'+u,p,key=k,tok=ann); g=req(port,'GET','/alls/'+u,tok=ann)
    a=req(port,'PATCH','/alls/'+u,p,tok=ann)
    if b[0]>=400: print('patch',b[0],b[2][:200]); continue
    if not(vis(a)==vis(b)==vis(c)) or g[2]!=b[2]:
        bad+=1
        if bad<4: print('PDIFF\n',vis(a),'\n',vis(b),'\n',vis(c))
print('bad',bad)
S.stop()
