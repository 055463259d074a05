import json,urllib.request,subprocess,sys,random
tok=subprocess.check_output(['./cs','token','{"id":"ann","role":"x"}'],text=True).strip()
S=open('ts.url').read().strip();P=open('tp.url').read().strip()
def call(u,m,path,body=None,raw=None,hdr={}):
    d=raw if raw is not None else (json.dumps(body).encode() if body is not None else None)
    r=urllib.request.Request(u+'/api'+path,data=d,method=m,headers={'Authorization':'Bearer '+tok,'content-type':'application/json',**hdr})
    try:
        x=urllib.request.urlopen(r,timeout=60);return x.status,x.read()
    except urllib.error.HTTPError as e: return e.code,e.read()
i=[1000+random.randrange(10**9)]
def both(body,raw=None):
    i[0]+=1
    b=dict(body,id=i[0]) if raw is None else None
    r=[]
    for u in (S,P):
        rr=raw.replace(b'@ID',str(i[0]).encode()) if raw else None
        s1,t=call(u,'POST','/nums',b,rr)
        st2,t2=call(u,'GET',f'/audit?key={i[0]}')
        ev=json.loads(t2)
        e=[{k:v for k,v in x.items() if k in('before','after','changed','primary_key','operation','out_of_band')} for x in ev.get('items',[])]
        r.append((s1,t if s1>201 else b'',json.dumps(e,ensure_ascii=True)))
    if r[0][0]!=r[1][0] or r[0][0]>499: print('STATUS',str(body or raw)[:80],r[0][:2],r[1][:2]); return
    if r[0][0]>201: print('refused',str(body or raw)[:80],r[0][0],r[0][1][-120:]); return
    A,B=json.loads(r[0][2])[0],json.loads(r[1][2])[0]
    for k in ('f',):
        va,vb=[(X['after'] or {}).get(k) for X in (A,B)]
        want=(body or {}).get('f')
        if want is not None:
            st['n']=st.get('n',0)+1
            st['textdiff']=st.get('textdiff',0)+(va!=vb)
            st['sqlite_wrong']=st.get('sqlite_wrong',0)+(float(va)!=want); st['pg_wrong']=st.get('pg_wrong',0)+(float(vb)!=want)
            if float(va)!=want and abs(want)<1e30 and abs(want)>1e-30: print('F',repr(want),va,vb)
            A['after'][k]=B['after'][k]=0
    if A!=B:
        for k in A:
            if A[k]!=B[k]:
                if isinstance(A[k],dict): print('DIFF',str(body or raw)[:60],[(q,str(A[k].get(q))[:80],str(B[k].get(q))[:80]) for q in {**A[k],**B[k]} if A[k].get(q)!=B[k].get(q)])
                else: print('DIFF',k,str(A[k])[:80],str(B[k])[:80])
st={}
ctl=''.join(map(chr,range(1,32)))+'\x7f\x80\x85\u2028\u2029\ufeff\ufffe\uffff\U0001f600\U0010ffff/"\\<>&\''
both({'name':ctl,'note':'x'} if False else {'name':ctl})
both({'name':'a\x00b'})
both({},raw=b'{"id":@ID,"name":"\\ud800"}')
both({},raw=b'{"id":@ID,"name":"\\ud83d\\ude00"}')
for f in [0,-0.0,1e308,5e-324,2.2250738585072014e-308,1.7976931348623157e308,1e21,1e22,123456789012345680,0.1,1/3,1e-7,1e-5,1e15,1e16,1e17,-1e16,9007199254740993,4.35,2.5e-5,100000,1e5,123456.789e3, 3.0e-310,1e-4,0.0001,0.00001]: both({'f':f})
for _ in range(300):
    import struct
    v=struct.unpack('d',random.randbytes(8))[0]
    if v==v and abs(v)!=float('inf'): both({'f':v})
for d in ['0','-0','0.0','1.10','99999999999999999999999999999999999999','0.00000000000000000000000000000000001','-1.50','1e5','123456789012345678901234567890.123','00012.5','+1']: both({'d':d})
for d in ['99999999999999.9999','-99999999999999.9999','0.0001','-0.0001','-0','1','1.5','-0.5','-1.05']: both({'ds':d})
for b in ['9223372036854775807','-9223372036854775808','0',"-0"]: both({'big':b})
for d in ['0001-01-01','9999-12-31','2024-02-29','0000-01-01','10000-01-01','-0001-01-01']: both({'da':d})
for d in ['0001-01-01T00:00:00Z','9999-12-31T23:59:59.999999Z','2024-06-30T23:59:60Z','2024-01-01T00:00:00.1234567Z','2024-01-01T00:00:00+14:00','0001-01-01T00:00:00+01:00','9999-12-31T23:59:59-01:00','1969-12-31T23:59:59.999999Z']: both({'dt':d})
for b in ['','AA==','//8=']: both({'b':b})
both({'st':'a'});both({'st':'b'})
both({'fl':[1,-5,9007199254740991],'tl':['a"b\\',ctl,'']})
for j in [b'1.0',b'1.00',b'1e2',b'-0',b'-0.0',b'1E400',b'1e-400',b'{"b":1,"a":2,"aa":3,"B":4}',b'"\\u0000"',b'"\\u2028"',b'null',b'[]',b'{}',b'{"":1}',b'123456789012345678901234567890',b'"\\ud800"',b'[1 , 2]',b'{"\xc3\xa9":1,"z":2}','{"\U0001f600":1,"\uffff":2}'.encode(),b'0.1e1',b'1e22',b'12345678901234567.5',b'{"a":{"c":1,"b":[{"y":1,"x":2}]}}']:
    both({},raw=b'{"id":@ID,"j":'+j+b'}')
both({'name':'x'*60000}) ; both({'key':'x'*70000}); both({'key':'"'*40000})
both({'outside':'q','moment':1,'c':2,'o':3,'n':4,'key':'k','changed':'ch','select':'s'})

for _ in range(300): both({'f':random.choice([random.uniform(-1000,1000),round(random.uniform(-1e6,1e6),2),random.uniform(0,1),random.randrange(10**16)*1.0])})
print(st)
